//! API keys: `sk-shoal-<id>-<secret>`, 16 and 64 hexadecimal digits. The id finds the row, the secret's hash is compared in
//! constant time. The secret is 256 random bits, so a fast hash will do; it is shown once and kept nowhere.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How every key of ours begins.
pub(crate) const KEY_PREFIX: &str = "sk-shoal-";

const ID_LEN: usize = 16;
const SECRET_LEN: usize = 64;

/// Names a key. Not secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct KeyId(String);

/// What is kept of a secret. Two are compared in constant time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyHash(#[serde(with = "hex")] blake3::Hash);

/// A key as its owner holds it. Has no `Debug` that shows it.
pub(crate) struct ApiKey {
    id: KeyId,
    secret: [u8; 32],
}

impl KeyId {
    /// As the API names it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads what [`KeyId::as_str`] gave.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("key_")?;
        (digits.len() == ID_LEN && is_hex(digits)).then(|| Self(text.to_owned()))
    }

    fn digits(&self) -> &str {
        &self.0["key_".len()..]
    }

    /// Enough of a key to tell it from others, and nothing of its secret.
    pub(crate) fn redacted(&self) -> String {
        format!("{KEY_PREFIX}{}-...", self.digits())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ApiKey {
    /// A new one, from the operating system's random numbers.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut id = [0; 8];
        let mut secret = [0; 32];
        fill_random(&mut id)?;
        fill_random(&mut secret)?;
        let id = KeyId(format!("key_{:016x}", u64::from_be_bytes(id)));
        Ok(Self { id, secret })
    }

    /// Reads a key; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('-')?;
        if id.len() != ID_LEN || secret.len() != SECRET_LEN || !is_hex(id) || !is_hex(secret) {
            return None;
        }
        let secret = *blake3::Hash::from_hex(secret).ok()?.as_bytes();
        let id = KeyId(format!("key_{id}"));
        Some(Self { id, secret })
    }

    /// Which row it belongs to.
    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    /// What is kept of it.
    pub(crate) fn hash(&self) -> KeyHash {
        KeyHash(blake3::hash(&self.secret))
    }

    /// The key itself, to be shown once.
    pub(crate) fn reveal(&self) -> String {
        let secret = blake3::Hash::from_bytes(self.secret);
        format!("{KEY_PREFIX}{}-{}", self.id.digits(), secret.to_hex())
    }
}

/// Random bytes of the operating system.
pub(crate) fn fill_random(mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = &mut bytes[filled..];
    }
    Ok(())
}

/// Lower-case only: one key has one spelling.
fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A hash as hexadecimal digits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<blake3::Hash, D::Error> {
        let text = String::deserialize(from)?;
        blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_no_two_are_alike() {
        let (one, other) = (ApiKey::random().unwrap(), ApiKey::random().unwrap());
        let text = one.reveal();
        assert_eq!(text.len(), KEY_PREFIX.len() + ID_LEN + 1 + SECRET_LEN);
        let read = ApiKey::parse(&text).unwrap();
        assert_eq!(read.id(), one.id());
        assert!(read.hash() == one.hash() && read.hash() != other.hash());
        assert_ne!(one.id(), other.id());
    }

    #[test]
    fn what_is_kept_and_shown_holds_no_secret() {
        let key = ApiKey::random().unwrap();
        let text = key.reveal();
        let secret = text.rsplit('-').next().unwrap();
        let kept = serde_json::to_string(&key.hash()).unwrap();
        for shown in [kept, key.id().redacted(), key.id().to_string()] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn only_whole_keys_are_read() {
        let text = ApiKey::random().unwrap().reveal();
        for wrong in [
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.to_uppercase(),
            &text.replacen("sk-shoal-", "sk-shoal-g", 1),
            "sk-shoal-",
            "sk-shoal--",
            "",
        ] {
            assert!(ApiKey::parse(wrong).is_none(), "{wrong}");
        }
        assert!(KeyId::parse("key_0123456789abcdef").is_some());
        for wrong in [
            "key_",
            "0123456789abcdef",
            "key_0123456789abcdeg",
            "key_é123456789abcde",
        ] {
            assert!(KeyId::parse(wrong).is_none(), "{wrong}");
        }
    }
}
