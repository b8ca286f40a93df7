//! What the server answers, read without trust: its words are another program's.

use std::borrow::Cow;

use serde::Deserialize;
use studio_plugin::json;
use studio_plugin::{Answer, Context, Response};

use crate::{base64, size};

/// Longest answer that is read, in bytes. More does not fit the plugin's memory together with the picture made from it.
pub(crate) const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Up to this many bytes the answer comes at once; a longer one comes as a file and is read in pieces of this size.
pub(crate) const INLINE_BYTES: u32 = 8 * 1024 * 1024;

/// Longest name of a job.
const LONGEST_ID: usize = 64;

/// A picture out of the server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: (u32, u32),
}

#[derive(Deserialize)]
struct Submitted<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Job<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    result: Option<Drawn<'a>>,
    #[serde(default)]
    error: Option<Wrong>,
}

#[derive(Deserialize)]
struct Drawn<'a> {
    #[serde(borrow)]
    output_format: Cow<'a, str>,
    #[serde(borrow, default)]
    images: Vec<Image<'a>>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow)]
    b64_json: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Wrong {
    #[serde(default)]
    message: String,
}

/// The name under which the server keeps the job.
pub(crate) fn submitted(response: &Response) -> Result<String, String> {
    let (status, body) = (response.status, inline(response));
    if status != 202 {
        return Err(format!("it answered {status} to the job"));
    }
    let id = json::from_slice::<Submitted<'_>>(body)
        .map(|submitted| submitted.id.into_owned())
        .unwrap_or_default();
    // It becomes part of a path.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(plain) {
        Ok(id)
    } else {
        Err("it took the job and gave it no name".to_owned())
    }
}

fn inline(response: &Response) -> &[u8] {
    match &response.body {
        Answer::Bytes(bytes) => bytes,
        Answer::File(_) => &[],
    }
}

/// The picture of a job that is over.
pub(crate) async fn finished(
    context: &Context,
    response: Response,
    ext: &str,
) -> Result<Picture, String> {
    // 404 after a restart, 410 when it was kept too long: the job is gone with what it drew.
    if response.status != 200 {
        return Err(format!(
            "it answered {} when asked for the job",
            response.status
        ));
    }
    let text = match response.body {
        Answer::Bytes(bytes) => bytes,
        Answer::File(file) => {
            let mut text = Vec::new();
            while (text.len() as u64) < file.size.min(MOST_BYTES) {
                let piece = context
                    .read(&file, text.len() as u64, INLINE_BYTES)
                    .await
                    .map_err(|failure| failure.message)?;
                if piece.is_empty() {
                    break;
                }
                text.extend(piece);
            }
            text
        }
    };
    picture(&text, ext)
}

fn picture(text: &[u8], ext: &str) -> Result<Picture, String> {
    let job: Job<'_> =
        json::from_slice(text).map_err(|_| "its answer is nothing that can be read".to_owned())?;
    if job.status != "completed" {
        let why = job.error.map(|error| error.message).unwrap_or_default();
        let why: String = why.chars().filter(|c| !c.is_control()).take(120).collect();
        return Err(format!("the job ended there as {:.20}: {why}", job.status));
    }
    let format = if ext == "jpg" { "jpeg" } else { ext };
    let drawn = job
        .result
        .filter(|drawn| drawn.output_format == format)
        .ok_or("it drew in another format than it was asked for")?;
    let [image] = drawn.images.as_slice() else {
        return Err(format!("it drew {} pictures", drawn.images.len()));
    };
    let bytes = base64::decode(&image.b64_json).ok_or("its picture is not base64")?;
    let size = size::of(&bytes).ok_or("its picture is of no type that it was asked for")?;
    Ok(Picture { bytes, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Answer::Bytes(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn a_name_is_a_name() {
        assert_eq!(
            submitted(&response(202, r#"{"id":"job-1_a","status":"queued"}"#)),
            Ok("job-1_a".to_owned())
        );
        for body in [
            r#"{"id":"../x"}"#,
            r#"{"id":""}"#,
            r#"{"id":7}"#,
            "",
            "[]",
            r#"{"id":"a b"}"#,
        ] {
            assert!(
                submitted(&response(202, body))
                    .unwrap_err()
                    .contains("no name"),
                "{body}"
            );
        }
        for status in [200, 400, 404, 429, 500] {
            assert!(
                submitted(&response(status, r#"{"id":"a"}"#))
                    .unwrap_err()
                    .contains(&status.to_string())
            );
        }
    }

    #[test]
    fn what_is_no_picture_is_none() {
        let png = "iVBORw0KGgoAAAANSUhEUgAAAGgAAABI";
        let done = |images: &str| {
            format!(
                r#"{{"status":"completed","error":null,"result":{{"output_format":"png","images":[{images}]}}}}"#
            )
        };
        let one = format!(r#"{{"index":0,"b64_json":"{png}"}}"#);
        let drawn = picture(done(&one).as_bytes(), "png").unwrap();
        assert_eq!((drawn.size, drawn.bytes.len()), ((104, 72), 24));
        for (text, ext, said) in [
            (done(&one), "webp", "another format"),
            (done(""), "png", "0 pictures"),
            (done(&format!("{one},{one}")), "png", "2 pictures"),
            (done(r#"{"b64_json":"!!"}"#), "png", "base64"),
            (done(r#"{"b64_json":"Zm9v"}"#), "png", "no type"),
            (
                r#"{"status":"failed","error":{"code":"x","message":"generate failed\n"}}"#
                    .to_owned(),
                "png",
                "as failed: generate failed",
            ),
            (
                r#"{"status":"cancelled"}"#.to_owned(),
                "png",
                "as cancelled",
            ),
            (
                r#"{"status":"completed"}"#.to_owned(),
                "png",
                "another format",
            ),
            ("{".to_owned(), "png", "nothing that can be read"),
        ] {
            let failure = picture(text.as_bytes(), ext).unwrap_err();
            assert!(failure.contains(said), "{failure}");
        }
    }
}
