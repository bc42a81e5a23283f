//! A network of the bar's own, with nothing in it but this machine, which has addresses of every kind there: in Linux namespaces
//! (`unshare`), which the bar enters by beginning again, and which are gone when it ends.

use super::places::ADDRESSES;
use anyhow::Context as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Set for the process that is inside.
const INSIDE: &str = "SHOAL_BENCHES_OWN_NETWORK";
/// Where names are asked for.
pub(super) const NAME_SERVER: &str = "127.0.0.53";

/// What takes the place of this machine's files.
const FILES: [(&str, &str); 3] = [
    ("/etc/resolv.conf", "nameserver 127.0.0.53\n"),
    ("/etc/nsswitch.conf", "hosts: files dns\n"),
    (
        "/etc/hosts",
        "127.0.0.1 localhost\n::1 localhost\n10.0.0.1 intranet\n",
    ),
];

/// The network that this process is in.
pub(super) struct Network {
    _files: TempDir,
}

impl Network {
    /// Begins this process again inside; there, makes the network. `Err`: what this machine has not.
    pub(super) fn enter() -> anyhow::Result<Result<Self, String>> {
        if std::env::var_os(INSIDE).is_some() {
            return Self::make().map(Ok);
        }
        for (program, arguments, package) in [
            (
                "unshare",
                &["-rmn", "true"][..],
                "util-linux, and a kernel that lets this user make namespaces",
            ),
            ("ip", &["-Version"], "iproute2"),
            ("mount", &["--version"], "mount"),
        ] {
            let mut command = Command::new(program);
            let tried = command.args(arguments).stdout(Stdio::null()).status();
            if !tried.is_ok_and(|status| status.success()) {
                return Ok(Err(format!(
                    "`{program}` does not work here: needs {package}"
                )));
            }
        }
        let error = Command::new("unshare")
            .arg("-rmn")
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        Err(error).context("beginning again in a network of its own")
    }

    fn make() -> anyhow::Result<Self> {
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("starting ip")?;
        let mut commands = String::from("link set lo up\n");
        for address in ADDRESSES {
            commands += &format!("address add {address} dev lo\n");
        }
        let mut input = ip.stdin.take().context("ip has no stdin")?;
        input.write_all(commands.as_bytes())?;
        drop(input);
        succeeded("ip", ip.wait()?)?;
        let files = tempfile::Builder::new().prefix("shoal-bench-").tempdir()?;
        for (path, text) in FILES {
            let name = Path::new(path).file_name().context("a file has a name")?;
            let own = files.path().join(name);
            std::fs::write(&own, text)?;
            let mut mount = Command::new("mount");
            mount.arg("--bind").arg(&own).arg(path);
            succeeded("mount", mount.status()?)?;
        }
        Ok(Self { _files: files })
    }
}

fn succeeded(program: &str, status: std::process::ExitStatus) -> anyhow::Result<()> {
    anyhow::ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}
