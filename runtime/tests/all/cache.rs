//! Compiled code: kept by tenant, checked before every use, mapped by need, unmapped, compiled again when it is damaged.

use crate::support::{
    Client, Node, component, components, config, function, parts, private_directory, random,
};
use bytes::Bytes;
use shoal::Config;
use shoal::sandbox::{
    CodeCache, CodeKey, CompileError, Components, FunctionSource, Grants, Loaded, Ready,
    messages::ComponentId,
};
use shoal::store::Data;
use shoal_inference::TenantId;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;

const ACME: TenantId = TenantId(1);
const BIRCH: TenantId = TenantId(2);

/// The sample `hello` as the `n`th of components that are all different: with a custom section, which means nothing.
fn hello(n: u8) -> Bytes {
    let mut wasm = component("hello").to_vec();
    wasm.extend([0, 3, 1, b'n', n]);
    wasm.into()
}

fn id(wasm: &[u8]) -> ComponentId {
    ComponentId(blake3::hash(wasm).into())
}

/// A place for compiled code, and what is mapped from there.
struct Fixture {
    directory: TempDir,
    components: Components,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let directory = private_directory();
        let components = components(&config, directory.path());
        Self {
            directory,
            components,
        }
    }

    fn cache(&self) -> &CodeCache {
        self.components.cache()
    }

    async fn ready(&self, key: CodeKey, wasm: Bytes) -> Result<Arc<Ready>, Arc<CompileError>> {
        let wasm = async { anyhow::Ok(wasm) };
        self.components.ready(key.0, key.1, wasm).await
    }

    /// Brings a component that must not be compiled.
    async fn cached(&self, key: CodeKey) -> Result<Arc<Ready>, Arc<CompileError>> {
        let wasm = async { Err(anyhow::anyhow!("asked for the bytes")) };
        self.components.ready(key.0, key.1, wasm).await
    }

    fn entries(&self) -> HashSet<String> {
        let files = fs::read_dir(self.directory.path()).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "mac-key")
            .collect()
    }
}

/// Whether the code of a component is mapped in this process.
fn is_in_memory(key: CodeKey) -> bool {
    let name = format!(
        "shoal-code-{}",
        &blake3::Hash::from_bytes(key.1.0).to_hex()[..16]
    );
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .contains(&name)
}

fn is_damaged(cache: &CodeCache, key: CodeKey) -> bool {
    matches!(cache.load(key).unwrap(), Loaded::Damaged)
}

fn is_there(cache: &CodeCache, key: CodeKey) -> bool {
    matches!(cache.load(key).unwrap(), Loaded::Code(_))
}

/// A number below `end`.
fn below(end: usize, random: &mut blake3::OutputReader) -> usize {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    (u64::from_le_bytes(bytes) % end as u64) as usize
}

#[tokio::test]
async fn an_entry_with_one_byte_changed_is_never_loaded() {
    let at = Fixture::new(|_| {});
    let key = (ACME, at.components.prepare(ACME, hello(0)).await.unwrap());
    let path = at.cache().entry(key);
    let good = fs::read(&path).unwrap();
    assert!(is_there(at.cache(), key));
    let mut random = random();
    let trailer = good.len() - 32..good.len();
    let places: Vec<usize> = (0..300)
        .map(|_| below(good.len(), &mut random))
        .chain(trailer)
        .collect();
    for place in &places {
        let mut bad = good.clone();
        bad[*place] ^= 1 << below(8, &mut random);
        fs::write(&path, &bad).unwrap();
        assert!(is_damaged(at.cache(), key), "byte {place}");
        assert!(!path.exists());
    }
    assert_eq!(at.cache().damaged(), places.len() as u64);
    fs::write(&path, &good).unwrap();
    assert!(is_there(at.cache(), key));
}

#[tokio::test]
async fn an_entry_of_another_length_is_never_loaded() {
    let at = Fixture::new(|_| {});
    let key = (ACME, at.components.prepare(ACME, hello(0)).await.unwrap());
    let path = at.cache().entry(key);
    let good = fs::read(&path).unwrap();
    let longer = [good.as_slice(), b"x"].concat();
    let twice = [good.as_slice(), &good].concat();
    for bad in [
        &good[..0],
        &good[..1],
        &good[..31],
        &good[..32],
        &good[..33],
        &good[..good.len() / 2],
        &good[..good.len() - 32],
        &good[..good.len() - 1],
        &longer,
        &twice,
    ] {
        fs::write(&path, bad).unwrap();
        assert!(is_damaged(at.cache(), key), "{} bytes", bad.len());
        assert!(matches!(at.cache().load(key).unwrap(), Loaded::Missing));
    }
}

#[tokio::test]
async fn an_entry_in_the_place_of_another_is_never_loaded() {
    let at = Fixture::new(|_| {});
    let one = at.components.prepare(ACME, hello(1)).await.unwrap();
    let two = at.components.prepare(ACME, hello(2)).await.unwrap();
    at.components.prepare(BIRCH, hello(1)).await.unwrap();
    let good = fs::read(at.cache().entry((ACME, one))).unwrap();
    for other in [(BIRCH, one), (ACME, two)] {
        // The code itself is the same but for the names of its files.
        fs::write(at.cache().entry(other), &good).unwrap();
        assert!(is_damaged(at.cache(), other));
    }
    assert!(is_there(at.cache(), (ACME, one)));
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let at = Fixture::new(|c| c.components_mapped_max = 1);
    let key = (ACME, at.components.prepare(ACME, hello(1)).await.unwrap());
    at.components.prepare(ACME, hello(2)).await.unwrap();
    let path = at.cache().entry(key);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[1..]).unwrap();
    at.ready(key, hello(1)).await.unwrap();
    assert_eq!(at.cache().damaged(), 1);
    assert_eq!(at.components.stats().cache_hits, 0);
    assert!(is_there(at.cache(), key));
}

#[tokio::test]
async fn a_cache_whose_key_is_another_is_compiled_again() {
    let at = Fixture::new(|_| {});
    let key = (ACME, at.components.prepare(ACME, hello(0)).await.unwrap());
    let mac_key = at.directory.path().join("mac-key");
    let mode = fs::metadata(&mac_key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let good = fs::read(&mac_key).unwrap();
    let engine = at.components.sandbox().engine();
    let entry = fs::read(at.cache().entry(key)).unwrap();
    let reopened = || CodeCache::open(at.directory.path(), engine).unwrap();
    assert!(is_there(&reopened(), key));
    for bad in [&[7; 32][..], &good[..31], &[], &[7; 33]] {
        fs::write(&mac_key, bad).unwrap();
        assert!(is_damaged(&reopened(), key), "{} bytes", bad.len());
        fs::write(at.cache().entry(key), &entry).unwrap();
    }
    fs::remove_file(&mac_key).unwrap();
    assert!(is_damaged(&reopened(), key));
    let new = fs::read(&mac_key).unwrap();
    assert_eq!(new.len(), 32);
    assert_ne!(new, good);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let sandbox = shoal::sandbox::Sandbox::new(&config()).unwrap();
    let directory = private_directory();
    let path = directory.path().join("made/as/needed");
    let open = || CodeCache::open(&path, sandbox.engine());
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let found = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    open().unwrap();
    assert_eq!(found(), 0o700);
    for refused in [0o720, 0o702, 0o777, 0o1777] {
        mode(refused);
        let why = format!("{:#}", open().map(|_| ()).unwrap_err());
        assert!(why.contains("mode 0700"), "{why}");
        assert!(why.contains(&format!("{refused:04o}")), "{why}");
    }
    mode(0o755);
    open().unwrap();
    assert_eq!(found(), 0o700);
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(CodeCache::open(&file, sandbox.engine()).is_err());
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_removed() {
    let at = Fixture::new(|_| {});
    let one = (ACME, at.components.prepare(ACME, hello(1)).await.unwrap());
    let two = (ACME, at.components.prepare(ACME, hello(2)).await.unwrap());
    let place = at.directory.path();
    let name = |key| {
        let path: PathBuf = at.cache().entry(key);
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    let of_another_engine = name(one).replace(&name(one)[82..], &format!("{:064}.code", 0));
    fs::copy(at.cache().entry(one), place.join(of_another_engine)).unwrap();
    fs::write(place.join("key.part"), b"half").unwrap();
    fs::create_dir(place.join("compiler.part")).unwrap();
    fs::write(place.join("compiler.part/in.wasm"), b"half").unwrap();
    fs::write(place.join("note"), b"not ours").unwrap();
    assert_eq!(at.entries().len(), 6);
    at.cache().keep_only(|key| key == two).unwrap();
    at.cache().remove_unfinished().unwrap();
    let left = HashSet::from([name(two), "note".to_owned()]);
    assert_eq!(at.entries(), left);
    assert!(place.join("mac-key").exists());
    assert!(is_there(at.cache(), two));
}

#[tokio::test]
async fn tenants_share_no_code() {
    let at = Fixture::new(|_| {});
    let acme = (ACME, at.components.prepare(ACME, hello(0)).await.unwrap());
    let birch = (BIRCH, acme.1);
    // What one tenant has is neither mapped nor on disk for another.
    let asked = at.cached(birch).await.map(|_| ()).unwrap_err();
    assert!(matches!(*asked, CompileError::Host(_)));
    assert_eq!(
        at.components.prepare(BIRCH, hello(0)).await.unwrap(),
        acme.1
    );
    assert_eq!(at.entries().len(), 2);
    assert_eq!(at.components.stats().mapped, 2);
    let (acme, birch) = (
        at.cached(acme).await.unwrap(),
        at.cached(birch).await.unwrap(),
    );
    assert!(!Arc::ptr_eq(&acme, &birch));
}

#[tokio::test]
async fn the_least_recently_used_is_unmapped() {
    let at = Fixture::new(|c| c.components_mapped_max = 2);
    let mut keys = Vec::new();
    for n in 10..12 {
        keys.push((ACME, at.components.prepare(ACME, hello(n)).await.unwrap()));
    }
    let mapped =
        |keys: &[CodeKey]| -> Vec<bool> { keys.iter().copied().map(is_in_memory).collect() };
    assert_eq!(mapped(&keys), [true, true]);
    assert_eq!(at.components.stats().mapped, 2);
    at.cached(keys[0]).await.unwrap();
    keys.push((ACME, at.components.prepare(ACME, hello(12)).await.unwrap()));
    assert_eq!(mapped(&keys), [true, false, true]);
    // An invocation keeps its code as long as it runs.
    let running = at.cached(keys[0]).await.unwrap();
    at.cached(keys[2]).await.unwrap();
    at.cached(keys[1]).await.unwrap();
    assert_eq!(at.components.stats().mapped, 2);
    assert_eq!(mapped(&keys), [true, true, true]);
    drop(running);
    assert_eq!(mapped(&keys), [false, true, true]);
    let stats = at.components.stats();
    assert_eq!((stats.mapped_total, stats.cache_hits), (4, 1));
}

/// Twenty who come at once; only when all are there, the one who was asked gets `wasm`. Their outcomes, and how many were
/// asked.
async fn twenty(
    at: &Arc<Fixture>,
    key: CodeKey,
    wasm: Option<Bytes>,
) -> (Vec<Result<Arc<Ready>, Arc<CompileError>>>, usize) {
    let (there, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (at, there, asked, wasm) = (at.clone(), there.clone(), asked.clone(), wasm.clone());
        tasks.spawn(async move {
            let wasm = async {
                asked.fetch_add(1, Relaxed);
                while there.load(Relaxed) < 20 {
                    tokio::task::yield_now().await;
                }
                wasm.ok_or_else(|| anyhow::anyhow!("gone"))
            };
            there.fetch_add(1, Relaxed);
            at.components.ready(key.0, key.1, wasm).await
        });
    }
    (tasks.join_all().await, asked.load(Relaxed))
}

#[tokio::test]
async fn all_who_come_at_once_wait_for_one_compile() {
    let at = Arc::new(Fixture::new(|_| {}));
    let key = (ACME, id(&hello(0)));
    let (outcomes, asked) = twenty(&at, key, Some(hello(0))).await;
    assert_eq!(asked, 1);
    let first = outcomes[0].as_ref().unwrap();
    for outcome in &outcomes {
        assert!(Arc::ptr_eq(first, outcome.as_ref().unwrap()));
    }
    let stats = at.components.stats();
    assert_eq!((stats.mapped, stats.mapped_total), (1, 1));
}

#[tokio::test]
async fn all_who_wait_share_a_failure_and_the_next_tries_again() {
    let at = Arc::new(Fixture::new(|_| {}));
    let key = (ACME, id(&hello(0)));
    for _ in 0..2 {
        let (outcomes, asked) = twenty(&at, key, None).await;
        assert_eq!(asked, 1);
        assert!(outcomes.iter().all(Result::is_err));
    }
    at.ready(key, hello(0)).await.unwrap();
}

#[tokio::test]
async fn who_waits_takes_over_from_who_left() {
    let at = Arc::new(Fixture::new(|_| {}));
    let key = (ACME, id(&hello(0)));
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let mut tasks = JoinSet::new();
    let first = at.clone();
    let first = tasks.spawn(async move {
        let never = async {
            asked.send(()).unwrap();
            std::future::pending::<anyhow::Result<Bytes>>().await
        };
        first.components.ready(key.0, key.1, never).await
    });
    is_asked.await.unwrap();
    let second = at.clone();
    tasks.spawn(async move { second.ready(key, hello(0)).await });
    tokio::task::yield_now().await;
    first.abort();
    assert!(tasks.join_next().await.unwrap().is_err());
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn bytes_of_another_component_are_not_compiled() {
    let at = Fixture::new(|_| {});
    let why = at.ready((ACME, id(&hello(1))), hello(2)).await;
    assert!(matches!(
        *why.map(|_| ()).unwrap_err(),
        CompileError::Host(_)
    ));
    assert_eq!(at.entries(), HashSet::new());
}

#[tokio::test]
async fn a_component_that_is_refused_leaves_nothing_behind() {
    let at = Fixture::new(|_| {});
    let empty = Bytes::from_static(b"\0asm\x0d\0\x01\0");
    let cut_off = hello(0).slice(..50_000);
    for (wasm, is_contract) in [(empty, true), (cut_off, false)] {
        let why = at.components.prepare(ACME, wasm).await.unwrap_err();
        assert_eq!(
            matches!(*why, CompileError::Contract(_)),
            is_contract,
            "{why}"
        );
        assert_eq!(at.entries(), HashSet::new());
        assert_eq!(at.components.stats().mapped_total, 0);
    }
}

#[tokio::test]
async fn a_tenant_compiles_as_many_at_once_as_it_may() {
    let at = Arc::new(Fixture::new(|c| c.tenant_compiles_max = 2));
    for (count, refused) in [(2, 0), (3, 1), (8, 6)] {
        let mut tasks = JoinSet::new();
        for n in 0..count {
            let at = at.clone();
            tasks.spawn(async move { at.components.prepare(ACME, hello(16 * count + n)).await });
        }
        let outcomes = tasks.join_all().await;
        let busy = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let busy: Vec<_> = busy.map(|why| why.to_string()).collect();
        assert_eq!(busy.len(), refused);
        assert!(
            busy.iter()
                .all(|why| why.contains("2 components") && why.contains("tenant_compiles_max"))
        );
    }
}

/// A node with `names` of `acme`, all different, of which it has the last one mapped and the others in `directory`.
fn node(directory: &Path, names: &[&str], change: impl FnOnce(&mut Config)) -> Node {
    let mut config = Config {
        components_mapped_max: 1,
        ..config()
    };
    change(&mut config);
    let functions = names.iter().zip(0..);
    let functions: Vec<FunctionSource> = functions
        .map(|(name, n)| FunctionSource {
            grants: Grants::default(),
            ..function("acme", name, hello(n).to_vec().into())
        })
        .collect();
    let mut parts = parts(config, functions);
    // A model is checked by the binary that compiles, which some of these nodes do not have.
    parts.seed.models.clear();
    parts.data = Data::in_memory().unwrap().with_code(directory.to_owned());
    Node::run(parts)
}

/// The entry of the `n`th function of [`node`].
fn entry(directory: &Path, n: u8) -> PathBuf {
    let name = format!("-{}-", blake3::hash(&hello(n)));
    let mut files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .find(|path| path.file_name().unwrap().to_str().unwrap().contains(&name))
        .unwrap()
}

#[test]
fn a_request_whose_code_is_damaged_is_answered_all_the_same() {
    let directory = private_directory();
    let node = node(directory.path(), &["cold", "warm"], |_| {});
    let expected = node.get("/f/acme/warm/").text();
    let path = entry(directory.path(), 0);
    let mut bad = fs::read(&path).unwrap();
    bad[5_000] ^= 1;
    fs::write(&path, bad).unwrap();
    let reply = node.get("/f/acme/cold/");
    assert_eq!((reply.status, reply.text()), (200, expected));
    for (metric, value) in [
        ("shoal_component_cache_damaged_total", 1.0),
        ("shoal_component_cache_hits_total", 0.0),
        ("shoal_component_mappings_total", 3.0),
        ("shoal_components_mapped", 1.0),
        ("shoal_compile_duration_seconds_count", 3.0),
    ] {
        assert_eq!(node.metric(metric), value, "{metric}");
    }
    assert_eq!(node.get("/f/acme/warm/").status, 200);
    assert_eq!(node.metric("shoal_component_cache_hits_total"), 1.0);
}

#[test]
fn a_node_that_starts_again_compiles_nothing() {
    let directory = private_directory();
    drop(node(directory.path(), &["one", "two"], |_| {}));
    let node = node(directory.path(), &["one", "two"], |c| {
        c.compiler = PathBuf::from("/nonexistent");
    });
    for path in ["/f/acme/one/", "/f/acme/two/"] {
        assert_eq!(node.get(path).status, 200);
    }
    assert_eq!(node.metric("shoal_compile_duration_seconds_count"), 0.0);
    assert_eq!(node.metric("shoal_component_cache_hits_total"), 4.0);
}

#[test]
fn a_component_that_cannot_be_had_is_tried_again_with_the_next_request() {
    let directory = private_directory();
    let node = node(directory.path(), &["cold", "warm"], |_| {});
    let away = private_directory();
    let away = away.path().join("cache");
    fs::rename(directory.path(), &away).unwrap();
    for _ in 0..2 {
        let reply = node.get("/f/acme/cold/");
        assert_eq!(
            (reply.status, reply.error_code().as_str()),
            (503, "component_unavailable")
        );
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(node.get("/f/acme/warm/").status, 200);
    }
    fs::rename(&away, directory.path()).unwrap();
    assert_eq!(node.get("/f/acme/cold/").status, 200);
}

#[test]
fn a_request_over_its_tenants_compiles_is_refused() {
    let directory = private_directory();
    let node = node(directory.path(), &["one", "two", "three", "warm"], |c| {
        c.tenant_compiles_max = 2;
    });
    for n in 0..3 {
        fs::remove_file(entry(directory.path(), n)).unwrap();
    }
    let mut clients: Vec<Client> = ["one", "two", "three"]
        .map(|name| {
            let mut client = node.connect();
            client.send(format!("GET /f/acme/{name}/ HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes());
            client
        })
        .into();
    let mut refused = Vec::new();
    for client in &mut clients {
        let reply = client.reply();
        if reply.status != 200 {
            assert_eq!(reply.header("retry-after"), Some("1"));
            refused.push((reply.status, reply.error_code()));
        }
    }
    assert_eq!(refused, [(429, "compile_limit".to_owned())]);
    let refusals = node.metric("shoal_refused_total{limit=\"tenant_compiles_max\"}");
    assert_eq!(refusals, 1.0);
}

#[test]
fn a_compile_counts_against_the_deadline_of_the_request_that_waits() {
    let directory = private_directory();
    let node = node(directory.path(), &["cold", "warm"], |c| {
        c.invocation_timeout = Duration::from_millis(20);
    });
    fs::remove_file(entry(directory.path(), 0)).unwrap();
    let reply = node.get("/f/acme/cold/");
    assert_eq!(
        (reply.status, reply.error_code().as_str()),
        (504, "function_timeout")
    );
}
