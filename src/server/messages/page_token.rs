//! Page tokens: opaque to the caller, and refused if they are not ours.

use base16ct::{lower::encode_string, mixed::decode_vec};
use tonic::Status;

use super::convert::invalid;

/// A token that resumes after this id. Hexadecimal, so that nobody takes it for an id.
pub(in crate::server) fn token(after_id: &str) -> String {
    encode_string(after_id.as_bytes())
}

/// The id that a token resumes after; `None` for the first page.
pub(in crate::server) fn read_token(token: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || invalid("page_token is not one that this service gave out");
    let bytes = decode_vec(token).map_err(|_not_hexadecimal| wrong())?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_not_an_id| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_resumes_after_its_id_and_nothing_else_is_a_token() {
        assert_eq!(
            read_token(&token("größe/1.jpg")).unwrap().as_deref(),
            Some("größe/1.jpg")
        );
        assert_eq!(read_token("").unwrap(), None);
        for wrong in ["a", "zz", "ff", "+1", "1.jpg"] {
            assert!(read_token(wrong).is_err(), "{wrong}");
        }
    }
}
