//! Page tokens: opaque to the caller, and refused where they are not ours.

use tonic::Status;

use super::convert::invalid;

/// A token that resumes after this id. Hexadecimal, so that nobody takes it for an id.
pub(super) fn token(after_id: &str) -> String {
    after_id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The id that a token resumes after; `None` for the first page.
pub(super) fn read_token(token: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || invalid("page_token is not one that this service gave out");
    let (pairs, rest) = token.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong());
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? * 16 + digit(pair[1])?);
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(wrong)
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
