//! A table's change, and its bytes on a repartition topic: Kafka Streams' `ChangedSerializer`.

use super::{Codec, CodecError, SharedCodec};

/// What happened to a table's row: the value it has now, and the one that was *sent* before (filled in only where somebody
/// downstream needs it). `None` is an absent row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The value now.
    pub new: Option<V>,
    /// The value last sent downstream.
    pub old: Option<V>,
}

/// `old‖00`, `new‖01`, or `varint(len new)‖new‖old‖02`, the varint zigzag encoded as Kafka's `ByteUtils` does.
pub(crate) struct ChangeCodec<V>(pub(crate) SharedCodec<V>);

const OLD_ONLY: u8 = 0;
const NEW_ONLY: u8 = 1;
const NEW_AND_OLD: u8 = 2;

impl<V: 'static> Codec for ChangeCodec<V> {
    type Value = Change<V>;

    fn name(&self) -> String {
        format!("change({})", self.0.name())
    }

    fn encode(&self, change: &Change<V>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match (&change.new, &change.old) {
            (Some(new), Some(old)) => {
                let mut bytes = Vec::new();
                self.0.encode(new, &mut bytes)?;
                write_varint(bytes.len(), out)?;
                out.extend_from_slice(&bytes);
                self.0.encode(old, out)?;
                out.push(NEW_AND_OLD);
            }
            (Some(new), None) => {
                self.0.encode(new, out)?;
                out.push(NEW_ONLY);
            }
            (None, Some(old)) => {
                self.0.encode(old, out)?;
                out.push(OLD_ONLY);
            }
            (None, None) => return Err(CodecError::malformed("a change with a new or an old value", "neither")),
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Change<V>, CodecError> {
        match bytes.split_last() {
            Some((&OLD_ONLY, old)) => Ok(Change { new: None, old: Some(self.0.decode(old)?) }),
            Some((&NEW_ONLY, new)) => Ok(Change { new: Some(self.0.decode(new)?), old: None }),
            Some((&NEW_AND_OLD, both)) => {
                let (length, both) = read_varint(both)?;
                let (new, old) = both.split_at_checked(length).ok_or_else(|| {
                    CodecError::malformed(format!("a new value of {length} bytes"), format!("{} bytes", both.len()))
                })?;
                Ok(Change { new: Some(self.0.decode(new)?), old: Some(self.0.decode(old)?) })
            }
            Some((flag, _)) => Err(CodecError::malformed(
                "a change that ends in 0 (old), 1 (new) or 2 (both)",
                format!("one that ends in {flag}"),
            )),
            None => Err(CodecError::malformed("a change", "no bytes")),
        }
    }
}

fn write_varint(length: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let length = i32::try_from(length)
        .map_err(|_| CodecError::malformed("a value of less than 2 GiB", format!("{length} bytes")))?;
    let mut rest = (length as u32) << 1;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    Ok(())
}

fn read_varint(bytes: &[u8]) -> Result<(usize, &[u8]), CodecError> {
    let mut value = 0_u32;
    for (at, &byte) in bytes.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            // Zigzag: an odd number is a negative length.
            if value & 1 == 1 {
                break;
            }
            return Ok(((value >> 1) as usize, &bytes[at + 1..]));
        }
    }
    Err(CodecError::malformed("the length of a new value as a varint", format!("{} bytes that are none", bytes.len())))
}
