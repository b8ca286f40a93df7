//! `data:` URLs: small files that come within the offer.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Lenient about padding only, which people leave off.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Content and the media type that the URL claims.
pub(crate) fn decode(text: &str) -> Result<(Vec<u8>, Option<String>), &'static str> {
    let body = text.get(5..).ok_or("it is empty")?;
    let (head, data) = body
        .split_once(',')
        .ok_or("it has no comma before its data")?;
    // A fragment is no data.
    let data = data.split_once('#').map_or(data, |(data, _)| data);
    let mut parameters = head.split(';').map(str::trim);
    let media_type = parameters
        .next()
        .filter(|kind| kind.contains('/') && kind.len() <= 100)
        .map(str::to_owned);
    let base64 = parameters
        .next_back()
        .is_some_and(|last| last.eq_ignore_ascii_case("base64"));
    let bytes = percent_decode(data.as_bytes())?;
    if !base64 {
        return Ok((bytes, media_type));
    }
    let bytes: Vec<u8> = bytes
        .into_iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let bytes = ENGINE.decode(bytes).map_err(|_| "its base64 is broken")?;
    Ok((bytes, media_type))
}

fn percent_decode(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err("a % in it is not followed by two hexadecimal digits");
        };
        out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codings() {
        let png = Some("image/png".to_owned());
        assert_eq!(
            decode("data:image/png;base64,aGkh"),
            Ok((b"hi!".to_vec(), png.clone()))
        );
        assert_eq!(
            decode("DATA:image/png;BASE64,aGkhIQ"),
            Ok((b"hi!!".to_vec(), png.clone()))
        );
        assert_eq!(
            decode("data:image/png;x=y;base64,aGkhIQ%3D%3D"),
            Ok((b"hi!!".to_vec(), png))
        );
        assert_eq!(decode("data:,a%20b%00#c"), Ok((b"a b\0".to_vec(), None)));
        assert_eq!(
            decode("data:text/plain,base64"),
            Ok((b"base64".to_vec(), Some("text/plain".into())))
        );
    }

    #[test]
    fn broken_ones() {
        for text in [
            "data:",
            "data:image/png;base64",
            "data:;base64,a",
            "data:;base64,!!!!",
            "data:,%",
            "data:,%4",
            "data:,%zz",
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
