//! Where the keys come from: `node.toml`, then the environment on top of it; and the example that shows them all.

use super::value::with_unit;
use super::{Config, ConfigError, Key, all_keys};
use toml::{Table, Value};

/// What the environment's names begin with: `SHOAL_GUESTS_MAX` is `guests_max`, `SHOAL_INFERENCE_ROWS_MAX` is `rows_max` of
/// `[inference]`.
const PREFIX: &str = "SHOAL_";

impl Config {
    /// The defaults, with the keys of a `node.toml` and of the environment over them, validated.
    ///
    /// `environment` looks a variable up. Variables that are no key are not an error: others read theirs.
    ///
    /// # Errors
    /// A file that is not TOML, an unknown key, a value of another kind or out of its range.
    pub fn read(
        file: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = Config::default();
        let table: Table = file
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Syntax(error.to_string()))?;
        config.set_all("", &table)?;
        for key in all_keys() {
            let variable = format!("{PREFIX}{}", key.name.replace('.', "_").to_uppercase());
            if let Some(text) = environment(&variable) {
                config.set(key, &text)?;
            }
        }
        config.validate()?;
        Ok(config)
    }

    fn set_all(&mut self, prefix: &str, table: &Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            if let Value::Table(inner) = value
                && prefix.is_empty()
                && is_table(&name)
            {
                self.set_all(&format!("{name}."), inner)?;
                continue;
            }
            let key =
                all_keys()
                    .find(|key| key.name == name)
                    .ok_or_else(|| ConfigError::Unknown {
                        hint: hint(&name),
                        key: name,
                    })?;
            self.set(key, &text(value))?;
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, text: &str) -> Result<(), ConfigError> {
        (key.set)(self, text).map_err(|expected| ConfigError::Value {
            key: key.name.to_owned(),
            expected: expected.to_owned(),
            actual: format!("{text:?}"),
        })
    }

    /// Every key with its words and its default, commented out: a `node.toml` to start from.
    pub fn example() -> String {
        let defaults = Config {
            // What differs from machine to machine, as some machine has it.
            socket_threads: 8,
            background_threads: 8,
            compiles_max: 4,
            compiler: "shoal".into(),
            ..Config::default()
        };
        let mut text = String::from(
            "# A node's configuration: every key with its default. `shoal serve --config node.toml` reads it; a variable\n\
             # like SHOAL_GUESTS_MAX or SHOAL_INFERENCE_ROWS_MAX in the environment outranks it.\n",
        );
        let mut in_table = false;
        for key in all_keys() {
            let name = match key.name.split_once('.') {
                None => key.name,
                Some((table, name)) => {
                    if !in_table {
                        text.push_str(&format!("\n[{table}]\n"));
                        in_table = true;
                    }
                    name
                }
            };
            text.push('\n');
            for line in key.doc {
                text.push_str(&format!("#{line}\n"));
            }
            let value = with_unit(key.name, (key.show)(&defaults));
            let is_bare = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
            let value = if is_bare {
                value
            } else {
                format!("\"{value}\"")
            };
            text.push_str(&format!("#{name} = {value}\n"));
        }
        text
    }
}

/// A value as [`super::value::Setting`] reads it. What no key can be is named by its type, for the refusal.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => format!("<{}>", value.type_str()),
    }
}

fn is_table(name: &str) -> bool {
    all_keys().any(|key| {
        key.name
            .split_once('.')
            .is_some_and(|(table, _)| table == name)
    })
}

/// The nearest name there is, if one is near.
fn hint(name: &str) -> String {
    let nearest = all_keys()
        .map(|key| (strsim::jaro(name, key.name), key.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, near)) if likeness > 0.8 => format!("did you mean {near}?"),
        _ => "`shoal serve --example-config` prints all there are".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(file: &str) -> Result<Config, ConfigError> {
        Config::read(file, |_| None)
    }

    fn refusal(file: &str) -> String {
        read(file).expect_err(file).to_string()
    }

    #[test]
    fn a_file_sets_what_it_names() {
        let config = read(
            "guests_max = 50\nheader_timeout = \"3s\"\nbody_bytes_max = \"1GiB\"\n[inference]\nrows_max = 7\n",
        )
        .unwrap();
        assert_eq!(config.guests_max, 50);
        assert_eq!(config.header_timeout, Duration::from_secs(3));
        assert_eq!(config.body_bytes_max, 1 << 30);
        assert_eq!(config.inference.rows_max, 7);
        assert_eq!(config.connections_max, Config::default().connections_max);
    }

    #[test]
    fn the_environment_outranks_the_file() {
        let environment = |name: &str| match name {
            "SHOAL_GUESTS_MAX" => Some("60".to_owned()),
            "SHOAL_INFERENCE_WAIT_MAX" => Some("2ms".to_owned()),
            _ => None,
        };
        let config = Config::read("guests_max = 50", environment).unwrap();
        assert_eq!(config.guests_max, 60);
        assert_eq!(config.inference.wait_max, Duration::from_millis(2));
        let wrong = Config::read("", |name| {
            (name == "SHOAL_GUESTS_MAX").then(|| "many".to_owned())
        });
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "guests_max must be a whole number, or bytes like 64KiB, 16MiB or 1GiB, got \"many\""
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_limit() {
        for (file, words) in [
            (
                "guest_max = 1",
                "unknown key guest_max; did you mean guests_max?",
            ),
            (
                "nonsense = 1",
                "unknown key nonsense; `shoal serve --example-config` prints all there are",
            ),
            (
                "[inference]\nrow_max = 1",
                "unknown key inference.row_max; did you mean inference.rows_max?",
            ),
            (
                "[guests_max]\nx = 1",
                "guests_max must be a whole number, or bytes like 64KiB, 16MiB or 1GiB, got \"<table>\"",
            ),
            (
                "header_timeout = 10",
                "header_timeout must be a time with its unit, like 500ms, 10s or 2m, got \"10\"",
            ),
            ("guests_max = 0", "guests_max must be 1 to 1000000, got 0"),
            (
                "header_bytes_max = \"4KiB\"",
                "header_bytes_max must be 8KiB to 1MiB, got 4KiB",
            ),
            (
                "guest_slice = \"0s\"",
                "guest_slice must be 1µs to 86400s, got 0ns",
            ),
            (
                "listen = \"localhost\"",
                "listen must be an address and a port, like 127.0.0.1:8080, got \"localhost\"",
            ),
            (
                "[inference]\nrows_max = 0",
                "inference.rows_max must be 1 to 65536, got 0",
            ),
        ] {
            assert_eq!(refusal(file), words, "{file}");
        }
        assert!(refusal("guests_max").starts_with("not a TOML file: "));
    }

    #[test]
    fn every_limit_holds_at_its_edges() {
        for (file, fits) in [
            ("guests_max = 1", true),
            ("guests_max = 1000000", true),
            ("guests_max = 1000001", false),
            ("guest_memory_bytes_max = \"4GiB\"", true),
            ("guest_memory_bytes_max = \"5GiB\"", false),
            ("compile_cpu_max = \"1s\"", true),
            ("compile_cpu_max = \"999ms\"", false),
            ("invocation_timeout = \"24h\"", true),
            ("invocation_timeout = \"24h 1ms\"", false),
        ] {
            assert_eq!(read(file).is_ok(), fits, "{file}");
        }
    }

    #[test]
    fn the_example_holds_every_key_and_can_be_uncommented() {
        let example = Config::example();
        let bare: String = example
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let table: Table = bare.parse().unwrap();
        let inner = table["inference"].as_table().unwrap().len();
        assert_eq!(table.len() - 1 + inner, all_keys().count());
        let config = read(&bare).unwrap();
        assert_eq!(config.guests_max, Config::default().guests_max);
    }

    #[test]
    fn the_committed_example_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../node.example.toml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == Config::example(),
            "run: cargo run --release -- serve --example-config > node.example.toml"
        );
    }
}
