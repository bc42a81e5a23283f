//! The way of whoever writes a function: `shoal new`, `shoal dev`, `shoal login`, `shoal deploy`. Projects here are built by a
//! copy of a sample, so that no compiler is needed; `.ci/dev-loop` builds a real one.

use crate::support::{Client, root, served};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn shoal(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .env_remove("SHOAL_ADMIN_URL")
        .env_remove("SHOAL_API_KEY")
        .env_remove("SHOAL_URL");
    command
}

fn output(folder: &Path, arguments: &[&str]) -> Output {
    shoal(folder, arguments).output().unwrap()
}

/// A project whose component is that of the sample that the file `sample` names.
fn project(folder: &Path, sample: &str) {
    let samples = root().join("samples/components");
    let manifest = format!(
        "name = \"turns\"\nbuild = \"cp {}/$(cat sample).wasm out.wasm\"\ncomponent = \"out.wasm\"\n",
        samples.display()
    );
    fs::write(folder.join("shoal.toml"), manifest).unwrap();
    fs::write(folder.join("sample"), sample).unwrap();
}

/// `shoal dev`, and what it says.
struct Dev {
    child: Child,
    said: Receiver<String>,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        let mut child = shoal(folder, &["dev", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, said) = channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let other = sender.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(sender.send(line)));
        });
        std::thread::spawn(move || {
            let lines = BufReader::new(stderr).lines();
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(other.send(line)));
        });
        Self { child, said }
    }

    /// The next line that has these words.
    fn says(&self, words: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("never said {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }
}

impl Dev {
    /// For longer than it takes to see a change.
    fn says_nothing(&self) {
        let said = self.said.recv_timeout(Duration::from_secs(1));
        assert!(said.is_err(), "{said:?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_change_is_live_and_a_mistake_leaves_what_was() {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path(), "hello");
    let dev = Dev::start(folder.path());
    let line = dev.says("version 1 is live at http://");
    let address = line.split("http://").nth(1).unwrap();
    let address: SocketAddr = address.split('/').next().unwrap().parse().unwrap();
    let get = || Client::new(address).get("/f/dev/turns/");
    assert_eq!(get().text(), "Hello from Shoal\n");
    dev.says_nothing();

    fs::write(folder.path().join("sample"), "none-of-this-name").unwrap();
    dev.says("none-of-this-name");
    dev.says("failed");
    assert_eq!(get().text(), "Hello from Shoal\n");

    fs::write(folder.path().join("sample"), "echo").unwrap();
    dev.says("version 2 is live");
    assert_eq!(get().header("x-echo-path"), Some("/"));

    // What it writes is shown, and what it may not do is refused, as on any node.
    fs::write(folder.path().join("sample"), "probe").unwrap();
    dev.says("version 3 is live");
    let _ = Client::new(address).get("/f/dev/turns/logs/all/1");
    dev.says(" stdout to stdout");
    let manifest = fs::read_to_string(folder.path().join("shoal.toml")).unwrap();
    let granted = format!("{manifest}models = [\"nope\"]\n");
    fs::write(folder.path().join("shoal.toml"), granted).unwrap();
    dev.says("no model \"nope\" on this node");
    fs::write(folder.path().join("shoal.toml"), "name = turns").unwrap();
    dev.says("shoal.toml");
}

#[test]
fn a_new_project_has_all_it_needs_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = output(folder.path(), &["new", "greeter"]);
    assert!(made.status.success(), "{made:?}");
    let read = |path: &str| fs::read_to_string(folder.path().join("greeter").join(path)).unwrap();
    assert!(read("Cargo.toml").contains("name = \"greeter\""));
    assert!(read("shoal.toml").lines().count() <= 6);
    let sdk = fs::read_to_string(root().join("guest-sdk/rust/src/lib.rs")).unwrap();
    assert_eq!(read("shoal-sdk/src/lib.rs"), sdk);
    assert!(read("src/lib.rs").contains("shoal_sdk::http!(handle);"));
    for (arguments, words) in [
        (&["new", "greeter"][..], "greeter"),
        (&["new", "Greeter"], "must be 1 to 63 of a-z"),
        (&["new", "3d"], "begins with a letter"),
        (&["new", "serde"], "no other package's"),
        (&["new", "no/such/folder"], "no/such/folder"),
        (
            &["new", "other", "--lang", "cobol"],
            "possible values: rust",
        ),
        (&["build", "nowhere"], "shoal new NAME"),
        (&["deploy"], "shoal new NAME"),
        (&["dev", "--listen", "0.0.0.0:0"], "loopback"),
    ] {
        let refused = output(folder.path(), arguments);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn whoever_logged_in_deploys_from_the_projects_folder() {
    let folder = tempfile::tempdir().unwrap();
    let node = served(&folder.path().join("data"), &[]);
    let key = node.project(node.admin_key.as_ref().unwrap(), "acme");
    let url = format!("http://{}", node.admin);
    let login = |key: &str| {
        let mut child = shoal(folder.path(), &["login", "--admin-url", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(key.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    for (wrong, words) in [("", "no key"), ("sk-shoal-none\n", "wrong or was revoked")] {
        let refused = login(wrong);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains(words), "{said}");
    }
    let done = login(&format!("{key}\n"));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(
        done.status.success() && said.contains("as project acme"),
        "{said}"
    );
    assert!(!said.contains(&key));
    use std::os::unix::fs::PermissionsExt as _;
    let profile = folder.path().join("config/shoal/profile.json");
    let mode = fs::metadata(profile).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    project(folder.path(), "hello");
    let deployed = output(folder.path(), &["deploy", "--public"]);
    let said = String::from_utf8(deployed.stdout).unwrap();
    assert!(deployed.status.success(), "{:?}", deployed.stderr);
    assert!(said.contains("turns: version 1 is live at"), "{said}");
    assert_eq!(
        node.call("/f/acme/turns/", None).text(),
        "Hello from Shoal\n"
    );
    // The key is for that node alone.
    let elsewhere = ["functions", "list", "--admin-url", "http://127.0.0.1:1"];
    assert!(!output(folder.path(), &elsewhere).status.success());
    let listed = output(folder.path(), &["functions", "list"]);
    assert!(String::from_utf8(listed.stdout).unwrap().contains("turns"));
}
