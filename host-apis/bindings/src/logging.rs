//! `wasi:logging`: a guest's lines with a level and a context, in versions `0.1.0-draft` and none: guests of both are around,
//! and the interface is the same. Whose lines they are, and what becomes of them, is known to the [`Log`] behind it.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker};

/// The names that guests import it by.
const INTERFACES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

/// What kind of line it is, from the flow of control to the end of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum Level {
    /// Values of variables, the flow of control.
    #[component(name = "trace")]
    Trace,
    /// For someone who looks for a mistake.
    #[component(name = "debug")]
    Debug,
    /// For someone who watches.
    #[component(name = "info")]
    Info,
    /// Something that may become an error.
    #[component(name = "warn")]
    Warn,
    /// An error.
    #[component(name = "error")]
    Error,
    /// A fatal error.
    #[component(name = "critical")]
    Critical,
}

impl Level {
    /// Its name in WIT.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Critical => "critical",
        }
    }
}

/// Implemented by the data of a store whose guests may log.
pub trait Log: 'static {
    /// Takes one message. Both texts are as long as the guest liked and the store's hostcall fuel allowed, and may hold
    /// anything: newlines, control characters.
    fn log(&mut self, level: Level, context: &str, message: &str);
}

/// Links the interface under each of its names.
///
/// Linked by hand: generated bindings would be the same function once more for the second name.
///
/// # Errors
/// If one of them is linked already.
pub fn add_to_linker<T: Log>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    for interface in INTERFACES {
        let log = |mut store: StoreContextMut<'_, T>, call: (Level, String, String)| {
            let (level, context, message) = call;
            store.data_mut().log(level, &context, &message);
            Ok(())
        };
        linker.instance(interface)?.func_wrap("log", log)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;
    use wasmtime::component::Component;

    struct Deaf;

    impl Log for Deaf {
        fn log(&mut self, _: Level, _: &str, _: &str) {}
    }

    /// Its length and itself, as the binary format has strings and lists of bytes.
    fn sized(bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        [&[length], bytes].concat()
    }

    /// A component that imports `interface`, spelled out as WIT has it, and does nothing.
    fn importing(interface: &str) -> Vec<u8> {
        let levels = ["trace", "debug", "info", "warn", "error", "critical"];
        let cases: Vec<u8> = levels
            .iter()
            .flat_map(|name| sized(name.as_bytes()))
            .collect();
        let types = [
            // One type: an instance of four declarations.
            &[1, 0x42, 4][..],
            // Type 0 is the enum; it is exported as `level`, which makes type 1.
            &[0x01, 0x6d, 6],
            &cases,
            &[0x04, 0x00],
            &sized(b"level"),
            &[0x03, 0x00, 0x00],
            // Type 2 is the function of it and two strings, without a result; it is exported as `log`.
            &[0x01, 0x40, 3],
            &sized(b"level"),
            &[0x01],
            &sized(b"context"),
            &[0x73],
            &sized(b"message"),
            &[0x73, 0x01, 0x00],
            &[0x04, 0x00],
            &sized(b"log"),
            &[0x01, 0x02],
        ]
        .concat();
        let imports = [&[1, 0x00][..], &sized(interface.as_bytes()), &[0x05, 0x00]].concat();
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        for (id, section) in [(7, types), (10, imports)] {
            component.push(id);
            component.extend(sized(&section));
        }
        component
    }

    #[test]
    fn guests_of_both_versions_are_linked_and_no_others() {
        let engine = Engine::default();
        let mut linker = Linker::<Deaf>::new(&engine);
        add_to_linker(&mut linker).unwrap();
        for (interface, linked) in [
            ("wasi:logging/logging@0.1.0-draft", true),
            ("wasi:logging/logging", true),
            ("wasi:logging/logging@0.2.0", false),
            ("wasi:logging/loud", false),
        ] {
            let component = Component::new(&engine, importing(interface)).unwrap();
            assert_eq!(
                linker.instantiate_pre(&component).is_ok(),
                linked,
                "{interface}"
            );
        }
    }
}
