//! Reads the protobuf wire format, one level at a time: no recursion, no allocation, every length checked. Enough to look
//! at an ONNX file before a full parser sees it.
//! Source: Protocol Buffers documentation, "Encoding".

/// The bytes are not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file is not a whole ONNX file")]
pub(super) struct Malformed;

/// One field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An integer, an enum or a bool.
    Varint(u64),
    /// A string, bytes, an embedded message or packed numbers.
    Bytes(&'a [u8]),
    /// A fixed-width number: nothing this crate looks at.
    Fixed,
}

/// The fields of one message, in the order of the file: number and content.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.bytes(len)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            // Groups (3, 4) have not been written since proto2; 6 and 7 do not exist.
            _ => return Err(Malformed),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The embedded messages, strings or byte strings with this number.
pub(super) fn each(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::new(message).filter_map(move |field| match field {
        Ok((found, Value::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

/// The last one of these, which is the one that counts.
pub(super) fn bytes(message: &[u8], number: u64) -> Result<Option<&[u8]>, Malformed> {
    each(message, number).try_fold(None, |_, bytes| bytes.map(Some))
}

/// The string with this number; empty if there is none.
pub(super) fn string(message: &[u8], number: u64) -> Result<&str, Malformed> {
    let bytes = bytes(message, number)?.unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// The integer with this number.
pub(super) fn varint(message: &[u8], number: u64) -> Result<Option<u64>, Malformed> {
    Fields::new(message).try_fold(None, |last, field| match field? {
        (found, Value::Varint(value)) if found == number => Ok(Some(value)),
        _ => Ok(last),
    })
}
