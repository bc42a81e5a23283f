//! What no store takes, whichever it is: asked before a commit is queued, so that one that is queued can only fail with its
//! disk.

use super::{
    COMMIT_BYTES_MAX, COMMIT_LEN_MAX, Check, NAME_BYTES_MAX, Op, RowKey, StoreError,
    VALUE_BYTES_MAX,
};

/// Whether a row may have this key.
pub(super) fn check_key(key: &RowKey) -> Result<(), StoreError> {
    within("bytes of name", key.name.len(), NAME_BYTES_MAX)
}

/// Whether a commit may be asked for.
pub(super) fn check_commit(checks: &[Check], ops: &[Op]) -> Result<(), StoreError> {
    let len = checks.len() + ops.len();
    within("checks and operations", len, COMMIT_LEN_MAX)?;
    for check in checks {
        let (Check::Absent(key) | Check::At(key, _)) = check;
        check_key(key)?;
    }
    let mut bytes = 0;
    for op in ops {
        let (key, value_len) = match op {
            Op::Put(key, value) => (key, value.len()),
            Op::Delete(key) => (key, 0),
        };
        check_key(key)?;
        within("bytes of value", value_len, VALUE_BYTES_MAX)?;
        // At most 1,000 times the two limits above: no overflow.
        bytes += key.name.len() + value_len;
    }
    within("bytes of names and values", bytes, COMMIT_BYTES_MAX)
}

fn within(what: &str, len: usize, max: usize) -> Result<(), StoreError> {
    if len > max {
        return Err(StoreError::TooLarge(format!("{len} {what}, at most {max}")));
    }
    Ok(())
}
