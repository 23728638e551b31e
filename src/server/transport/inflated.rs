//! Inflates messages that are compressed by gzip as they arrive. The inflated bytes count like those of other
//! messages.

use std::io::Read;

use flate2::read::GzDecoder;
use hyper::body::Bytes;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};

use crate::server::messages::convert::invalid;

/// The length of the prefix of each message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;
/// The highest allowed compression ratio of a message. Vectors, pictures and metadata are far below it. Zeros
/// reach a thousand, which cost almost nothing to send and a second to inflate.
const TIMES_MAX: usize = 100;
/// The number of bytes that are inflated before they are charged.
const STEP_BYTES: u64 = 64 << 10;
const ENCODING: &str = "grpc-encoding";
/// How requests may be compressed.
pub(super) const ACCEPTED: &str = "identity,gzip";

/// The length of the message that follows.
pub(super) fn message_length(prefix: &[u8; PREFIX_BYTES]) -> usize {
    let [_, length @ ..] = *prefix;
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

/// Whether the messages of a request may be compressed by gzip. The header is removed, so that nothing else
/// sees it.
pub(super) fn take_gzip(headers: &mut HeaderMap) -> bool {
    let is_gzip = headers
        .get(ENCODING)
        .is_some_and(|encoding| encoding == "gzip");
    if is_gzip {
        headers.remove(ENCODING);
    }
    is_gzip
}

/// The bytes of a body with its messages inflated.
#[derive(Debug, Default)]
pub(super) struct Inflated {
    /// The part of a message that has arrived.
    came: Vec<u8>,
}

impl Inflated {
    /// Reads further bytes; returns the messages that are now complete. `charge` is called before bytes are
    /// kept.
    pub(super) fn read(
        &mut self,
        data: &[u8],
        bytes_max: usize,
        mut charge: impl FnMut(u64) -> Result<(), Status>,
    ) -> Result<Bytes, Status> {
        self.came.extend_from_slice(data);
        let (mut whole, mut read) = (Vec::new(), 0);
        while let Some((prefix, rest)) = self
            .came
            .get(read..)
            .and_then(<[u8]>::split_first_chunk::<PREFIX_BYTES>)
        {
            let length = message_length(prefix);
            if bytes_max < length {
                return Err(too_large(bytes_max));
            }
            let Some(message) = rest.get(..length) else {
                break;
            };
            read += PREFIX_BYTES + length;
            match prefix {
                [1, ..] => inflate(message, &mut whole, bytes_max, &mut charge)?,
                // The message is not compressed or has an unknown flag, so it is passed on unchanged.
                _ => {
                    whole.extend_from_slice(prefix);
                    whole.extend_from_slice(message);
                }
            }
        }
        self.came.drain(..read);
        if self.came.is_empty() {
            self.came = Vec::new();
        }
        Ok(whole.into())
    }
}

/// Appends a message to `whole` after inflating it.
fn inflate(
    message: &[u8],
    whole: &mut Vec<u8>,
    bytes_max: usize,
    charge: &mut impl FnMut(u64) -> Result<(), Status>,
) -> Result<(), Status> {
    let prefix = whole.len();
    whole.extend_from_slice(&[0; PREFIX_BYTES]);
    let begin = whole.len();
    let mut decoder = GzDecoder::new(message);
    loop {
        let mut step = decoder.by_ref().take(STEP_BYTES);
        let step = step.read_to_end(whole);
        let step = step.map_err(|error| invalid(&format!("the message is no gzip: {error}")))?;
        let length = whole.len() - begin;
        if bytes_max < length {
            return Err(too_large(bytes_max));
        }
        if message.len() * TIMES_MAX < length {
            let text = format!(
                "the message has more than {TIMES_MAX} times its bytes once it is inflated; send it without compression"
            );
            return Err(invalid(&text));
        }
        if step == 0 {
            let length = u32::try_from(length).map_err(|_overflow| too_large(bytes_max))?;
            if let Some(place) = whole.get_mut(prefix + 1..begin) {
                place.copy_from_slice(&length.to_be_bytes());
            }
            return Ok(());
        }
        charge(step as u64)?;
    }
}

fn too_large(bytes_max: usize) -> Status {
    let text = format!("the message is larger than message_bytes_max = {bytes_max}");
    Status::new(Code::OutOfRange, text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag], &length.to_be_bytes()[..], message].concat()
    }

    fn gzipped(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).unwrap();
        framed(1, &encoder.finish().unwrap())
    }

    #[test]
    fn messages_are_inflated_however_they_are_cut_and_charged_for_what_they_become() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let body = [
            gzipped(b"one"),
            framed(0, b"two"),
            gzipped(&text),
            gzipped(b""),
        ]
        .concat();
        let expected = [
            framed(0, b"one"),
            framed(0, b"two"),
            framed(0, &text),
            framed(0, b""),
        ]
        .concat();
        for step in [1, 7, 1000, body.len()] {
            let (mut inflated, mut charged, mut found) = (Inflated::default(), 0, Vec::new());
            for piece in body.chunks(step) {
                let charge = |bytes| {
                    charged += bytes;
                    Ok(())
                };
                found.extend_from_slice(&inflated.read(piece, 1 << 20, charge).unwrap());
            }
            assert!(found == expected, "in steps of {step}");
            assert_eq!(charged, 3 + text.len() as u64);
        }
    }

    #[test]
    fn what_becomes_too_large_or_finds_no_room_is_refused_before_it_is_kept() {
        let refused = |message: &[u8], bytes_max, room: u64| {
            let mut charged = 0;
            let charge = |bytes| {
                charged += bytes;
                if room < charged {
                    return Err(Status::resource_exhausted("no room"));
                }
                Ok(())
            };
            let mut inflated = Inflated::default();
            inflated.read(message, bytes_max, charge).unwrap_err()
        };
        let varied: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let large = refused(&gzipped(&varied), 300_000, u64::MAX);
        assert_eq!(large.code(), Code::OutOfRange, "{large}");
        let full = refused(&gzipped(&varied), 1 << 20, 100_000);
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        let bomb = refused(&gzipped(&vec![0; 50 << 20]), 80 << 20, 10 << 20);
        assert!(bomb.message().contains("100 times"), "{bomb}");
        let broken = refused(&framed(1, b"no gzip"), 1 << 20, u64::MAX);
        assert_eq!(broken.code(), Code::InvalidArgument, "{broken}");
        let mut cut = gzipped(&varied);
        cut.truncate(1000);
        let cut = framed(1, &cut[PREFIX_BYTES..]);
        let refusal = refused(&cut, 1 << 20, u64::MAX);
        assert!(refusal.message().contains("no gzip"), "{refusal}");
        let said = refused(&framed(0, &[0; 9])[..5], 8, u64::MAX);
        assert_eq!(said.code(), Code::OutOfRange, "{said}");
    }
}
