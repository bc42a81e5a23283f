//! Components that are all different and say which they are: the sample `hello`, each with a text of its own in the place of
//! its own. So an answer proves which component gave it. About 100 KB each.

use anyhow::Context as _;
use bytes::Bytes;
use shoal::store::Digest;

const HELLO: &[u8] = include_bytes!("../../samples/components/hello.wasm");
const TEXT: &[u8] = b"Hello from Shoal\n";

/// The component of a number below 100,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Greeting(pub(crate) u32);

impl Greeting {
    /// What it answers: as many bytes as the sample does.
    pub(crate) fn text(self) -> Bytes {
        format!("Hello from {:05}\n", self.0).into()
    }

    pub(crate) fn wasm(self) -> anyhow::Result<Bytes> {
        let mut places = HELLO.windows(TEXT.len());
        let at = places.position(|bytes| bytes == TEXT);
        let at = at.context("the sample hello does not hold the text that it answers")?;
        let mut wasm = HELLO.to_vec();
        wasm[at..at + TEXT.len()].copy_from_slice(&self.text());
        Ok(wasm.into())
    }

    /// What the node calls its component.
    pub(crate) fn digest(self) -> anyhow::Result<String> {
        Ok(Digest::of(&self.wasm()?).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_the_sample_with_another_text() {
        for greeting in [Greeting(0), Greeting(99_999)] {
            assert_eq!(greeting.text().len(), TEXT.len());
            let wasm = greeting.wasm().unwrap();
            let differ = wasm.iter().zip(HELLO).filter(|(a, b)| a != b).count();
            assert_eq!((wasm.len(), differ), (HELLO.len(), 5));
        }
        assert_ne!(Greeting(1).digest().unwrap(), Greeting(2).digest().unwrap());
    }
}
