//! Blobs, in memory and on disk, and what becomes of damaged ones.

use bytes::Bytes;
use shoal::store::{BlobError, Blobs, Digest, NotADigest};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Runs each of these functions as one test in memory and one on disk.
macro_rules! both {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Blobs::in_memory()).await;
            })*
        }

        mod disk {
            $(#[tokio::test]
            async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                let blobs = super::Blobs::on_disk(&dir.path().join("blobs")).unwrap();
                super::$test(blobs).await;
            })*
        }
    };
}

both! {
    a_blob_is_read_as_it_was_put
    a_blob_that_was_never_put_is_absent
    a_blob_may_be_put_again
    a_blob_may_be_put_by_many_at_once
    only_wanted_blobs_are_kept
}

async fn a_blob_is_read_as_it_was_put(blobs: Blobs) {
    for length in [0, 1, 65_536, 65_537, 3 << 20] {
        let bytes: Bytes = (0..length).map(|n| n as u8).collect();
        let digest = blobs.put(bytes.clone()).await.unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        let found = blobs.get(&digest).await.unwrap();
        assert!(found == Some(bytes), "{length} bytes");
    }
}

async fn a_blob_that_was_never_put_is_absent(blobs: Blobs) {
    assert_eq!(blobs.get(&Digest::of(b"a")).await.unwrap(), None);
}

async fn a_blob_may_be_put_again(blobs: Blobs) {
    let first = blobs.put(Bytes::from_static(b"a")).await.unwrap();
    let second = blobs.put(Bytes::from_static(b"a")).await.unwrap();
    assert_eq!(first, second);
    let found = blobs.get(&first).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"a"[..]));
    assert_eq!(blobs.keep_only(&HashSet::new()).await.unwrap(), 1);
}

async fn a_blob_may_be_put_by_many_at_once(blobs: Blobs) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let blobs = blobs.clone();
        tasks.spawn(async move { blobs.put(Bytes::from_static(b"a")).await.unwrap() });
    }
    let digests: HashSet<Digest> = tasks.join_all().await.into_iter().collect();
    assert_eq!(digests, HashSet::from([Digest::of(b"a")]));
    // Nothing is left over either.
    assert_eq!(blobs.keep_only(&digests).await.unwrap(), 0);
}

async fn only_wanted_blobs_are_kept(blobs: Blobs) {
    let mut all = Vec::new();
    for n in 0..20_u8 {
        all.push(blobs.put(Bytes::copy_from_slice(&[n])).await.unwrap());
    }
    let absent = Digest::of(b"absent");
    let wanted: HashSet<Digest> = all[..8].iter().copied().chain([absent]).collect();
    assert_eq!(blobs.keep_only(&wanted).await.unwrap(), 12);
    for (n, digest) in all.iter().enumerate() {
        let found = blobs.get(digest).await.unwrap();
        assert_eq!(found.is_some(), n < 8, "blob {n}");
    }
    assert_eq!(blobs.keep_only(&wanted).await.unwrap(), 0);
}

/// Where a blob is, on disk.
fn file(dir: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    dir.join(&name[..2]).join(name)
}

fn is_damaged(got: Result<Option<Bytes>, BlobError>, of: Digest) -> bool {
    matches!(got, Err(BlobError::Damaged { digest }) if digest == of)
}

#[tokio::test]
async fn a_damaged_blob_is_never_handed_out_and_putting_it_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(dir.path()).unwrap();
    let bytes = Bytes::from_static(b"component");
    let digest = blobs.put(bytes.clone()).await.unwrap();
    let file = file(dir.path(), &digest);
    for damaged in [&b"componenT"[..], b"componen", b"component ", b""] {
        fs::write(&file, damaged).unwrap();
        assert!(is_damaged(blobs.get(&digest).await, digest));
        assert_eq!(blobs.put(bytes.clone()).await.unwrap(), digest);
        assert_eq!(blobs.get(&digest).await.unwrap(), Some(bytes.clone()));
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
}

#[tokio::test]
async fn blobs_on_disk_stay() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(dir.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"a")).await.unwrap();
    drop(blobs);
    let blobs = Blobs::on_disk(dir.path()).unwrap();
    let found = blobs.get(&digest).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"a"[..]));
}

#[tokio::test]
async fn what_a_cut_off_write_left_is_removed_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(dir.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"a")).await.unwrap();
    let file = file(dir.path(), &digest);
    let staged = ["#1", "#23"].map(|end| PathBuf::from(format!("{}{end}", file.display())));
    let foreign = [dir.path().join("notes"), file.with_file_name("notes#1")];
    for path in staged.iter().chain(&foreign) {
        fs::write(path, "half").unwrap();
    }
    let wanted = HashSet::from([digest]);
    assert_eq!(blobs.keep_only(&wanted).await.unwrap(), 2);
    assert!(staged.iter().all(|path| !path.exists()));
    assert!(foreign.iter().all(|path| path.exists()));
    assert!(file.exists());
}

#[tokio::test]
async fn a_folder_that_is_none_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(dir.path()).unwrap();
    let digest = Digest::of(b"a");
    let folder = file(dir.path(), &digest).parent().unwrap().to_owned();
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    assert!(matches!(blobs.get(&digest).await, Err(BlobError::Io(_))));
    let put = blobs.put(Bytes::from_static(b"a")).await;
    assert!(matches!(put, Err(BlobError::Io(_))));
    let kept = blobs.keep_only(&HashSet::new()).await;
    assert!(matches!(kept, Err(BlobError::Io(_))));
    let missing = Blobs::on_disk(&dir.path().join("missing/blobs"));
    assert!(matches!(missing, Err(BlobError::Io(_))));
}

#[test]
fn only_its_user_may_look_into_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blobs");
    Blobs::on_disk(&path).unwrap();
    let folders = fs::read_dir(&path).unwrap();
    assert_eq!(folders.count(), 256);
    for path in [path.clone(), path.join("ff")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[test]
fn a_digest_is_64_hexadecimal_digits() {
    // The test vector of the hash's authors for no bytes.
    let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let digest = Digest::of(b"");
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.parse(), Ok(digest));
    let json = format!("\"{text}\"");
    assert_eq!(serde_json::to_string(&digest).unwrap(), json);
    assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    let not_hex = text.replace('a', "g");
    for wrong in ["", &text[1..], &format!("{text}0"), &not_hex] {
        assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong}");
        assert!(serde_json::from_str::<Digest>(&format!("\"{wrong}\"")).is_err());
    }
}
