//! What a function project says of itself: `shoal.toml`, or what of a `spin.toml` with one component says something here.

use crate::egress::HostRule;
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use shoal_inference::Class;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

const OURS: &str = "shoal.toml";
const SPINS: &str = "spin.toml";

/// A function project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The function's name.
    pub(super) name: String,
    /// Models it may use.
    pub(super) models: Vec<String>,
    /// Hosts it may send requests to.
    pub(super) egress: Vec<HostRule>,
    pub(super) public: bool,
    /// Calls that one sandbox may serve.
    pub(super) reuse: Option<NonZeroU32>,
    /// How urgent its model calls are.
    pub(super) class: Class,
    pub(super) recipe: Recipe,
}

/// How its component is made, in the project's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// It is a Rust package.
    Cargo,
    /// A command for the shell, if there is anything to do, and what it leaves.
    Command {
        command: Option<String>,
        /// Where it runs, from the project's folder.
        folder: PathBuf,
        component: PathBuf,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    name: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    egress: Vec<HostRule>,
    #[serde(default)]
    public: bool,
    reuse: Option<NonZeroU32>,
    #[serde(default)]
    class: Class,
    build: Option<String>,
    component: Option<PathBuf>,
}

/// What of Spin's manifest (version 2) says something here. The rest is for Spin.
#[derive(Debug, Deserialize)]
struct Spins {
    spin_manifest_version: u32,
    application: SpinsApplication,
    component: BTreeMap<String, SpinsComponent>,
}

#[derive(Debug, Deserialize)]
struct SpinsApplication {
    name: String,
}

#[derive(Debug, Deserialize)]
struct SpinsComponent {
    source: SpinsSource,
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    ai_models: Vec<String>,
    build: Option<SpinsBuild>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SpinsSource {
    File(PathBuf),
    Remote {
        #[serde(rename = "url")]
        _url: String,
    },
}

#[derive(Debug, Deserialize)]
struct SpinsBuild {
    command: String,
    #[serde(default)]
    workdir: PathBuf,
}

impl Manifest {
    /// That of the project in `folder`.
    ///
    /// # Errors
    /// There is none, or one that cannot be followed: which key, and why.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        for (name, parse) in [(OURS, ours as fn(&str) -> _), (SPINS, spins)] {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => return parse(&text).with_context(|| path.display().to_string()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("reading {}", path.display()));
                }
            }
        }
        bail!(
            "{} has no {OURS} (and no {SPINS}): make a project with `shoal new NAME`",
            folder.display()
        )
    }
}

fn ours(text: &str) -> anyhow::Result<Manifest> {
    let ours: Ours = toml::from_str(text)?;
    let recipe = match (ours.component, ours.build) {
        (None, None) => Recipe::Cargo,
        (Some(component), command) => Recipe::Command {
            command,
            folder: PathBuf::new(),
            component,
        },
        (None, Some(_)) => bail!("build needs component: the file that the command leaves"),
    };
    Ok(Manifest {
        name: ours.name,
        models: ours.models,
        egress: ours.egress,
        public: ours.public,
        reuse: ours.reuse,
        class: ours.class,
        recipe,
    })
}

fn spins(text: &str) -> anyhow::Result<Manifest> {
    let spins: Spins = toml::from_str(text)?;
    ensure!(
        spins.spin_manifest_version == 2,
        "spin_manifest_version must be 2, got {}",
        spins.spin_manifest_version
    );
    let count = spins.component.len();
    let mut components = spins.component.into_values();
    let (Some(component), None) = (components.next(), components.next()) else {
        bail!("a function is one component, and this application has {count}");
    };
    let SpinsSource::File(source) = component.source else {
        bail!("source must be a file of this project, not a URL");
    };
    let hosts = component.allowed_outbound_hosts.iter();
    let egress = hosts
        .map(|host| spins_host(host))
        .collect::<Result<_, _>>()?;
    let (command, folder) = match component.build {
        Some(build) => (Some(build.command), build.workdir),
        None => (None, PathBuf::new()),
    };
    Ok(Manifest {
        name: spins.application.name,
        models: component.ai_models,
        egress,
        public: false,
        reuse: None,
        class: Class::Default,
        recipe: Recipe::Command {
            command,
            folder,
            component: source,
        },
    })
}

/// Spin's have a scheme, which says the port where there is none. What stands for all hosts has no word here.
fn spins_host(host: &str) -> anyhow::Result<HostRule> {
    let what = || format!("allowed_outbound_hosts: {host:?}");
    let (scheme, rest) = host.split_once("://").with_context(what)?;
    let rest = rest.trim_end_matches('/');
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        "*" => "",
        _ => bail!("{}: only http and https are there", what()),
    };
    // As it is if it has a port; the colons of an IPv6 address are in its brackets.
    let has_port = rest
        .rsplit_once(':')
        .is_some_and(|(_, end)| !end.ends_with(']'));
    let port = if has_port { "" } else { port };
    format!("{rest}{port}").parse().with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_project_needs_its_name_alone() {
        let manifest = ours("name = \"greeter\"").unwrap();
        let expected = Manifest {
            name: "greeter".to_owned(),
            models: Vec::new(),
            egress: Vec::new(),
            public: false,
            reuse: None,
            class: Class::Default,
            recipe: Recipe::Cargo,
        };
        assert_eq!(manifest, expected);
    }

    #[test]
    fn a_project_may_be_made_in_another_way() {
        let text = "name = \"a\"\nbuild = \"make\"\ncomponent = \"out.wasm\"\negress = [\"b.com\"]";
        let manifest = ours(text).unwrap();
        let recipe = Recipe::Command {
            command: Some("make".to_owned()),
            folder: PathBuf::new(),
            component: "out.wasm".into(),
        };
        assert_eq!(manifest.recipe, recipe);
        assert_eq!(manifest.egress, ["b.com".parse().unwrap()]);
    }

    #[test]
    fn a_key_that_is_wrong_is_named() {
        for (text, words) in [
            ("", "missing field `name`"),
            ("name = \"a\"\nmodel = \"x\"", "unknown field `model`"),
            (
                "name = \"a\"\negress = [\"https://b.com\"]",
                "without a scheme",
            ),
            ("name = \"a\"\nbuild = \"make\"", "build needs component"),
            ("name = ", "line 1"),
        ] {
            let words_found = format!("{:#}", ours(text).unwrap_err());
            assert!(words_found.contains(words), "{words_found}");
        }
    }

    #[test]
    fn a_spin_manifest_is_taken_as_it_is() {
        let text = r#"
            spin_manifest_version = 2
            [application]
            name = "hello-ai"
            version = "0.1.0"
            authors = ["somebody"]
            [[trigger.http]]
            route = "/..."
            component = "hello"
            [component.hello]
            source = "target/wasm32-wasip1/release/hello.wasm"
            allowed_outbound_hosts = ["https://api.example.com", "http://b.com:8080", "*://*.c.com"]
            ai_models = ["digits"]
            key_value_stores = ["default"]
            [component.hello.build]
            command = "cargo build"
            workdir = "hello"
            watch = ["src/**/*.rs"]
        "#;
        let manifest = spins(text).unwrap();
        assert_eq!(
            (&*manifest.name, &*manifest.models),
            ("hello-ai", &["digits".to_owned()][..])
        );
        let hosts: Vec<String> = manifest.egress.iter().map(HostRule::to_string).collect();
        assert_eq!(hosts, ["api.example.com:443", "b.com:8080", "*.c.com"]);
        let recipe = Recipe::Command {
            command: Some("cargo build".to_owned()),
            folder: "hello".into(),
            component: "target/wasm32-wasip1/release/hello.wasm".into(),
        };
        assert_eq!(manifest.recipe, recipe);
        let wrong = |from, to: &str| format!("{:#}", spins(&text.replace(from, to)).unwrap_err());
        let words = wrong("https://api.example.com", "postgres://api.example.com");
        assert!(
            words.contains("postgres") && words.contains("only http"),
            "{words}"
        );
        let words = wrong("version = 2", "version = 1");
        assert!(words.contains("must be 2"), "{words}");
        let two = format!("{text}\n[component.other]\nsource = \"x.wasm\"");
        assert!(format!("{:#}", spins(&two).unwrap_err()).contains("has 2"));
    }
}
