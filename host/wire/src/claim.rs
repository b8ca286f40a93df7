//! An offer's claim: checked where the host needs it, verbatim where only a plugin does.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest job id, in bytes. It becomes part of a URL and of file names.
const MAX_ID_BYTES: usize = 128;

/// Largest claim, in bytes. Plugins get it with the memory that they are granted by default, a few times over; a larger one would end
/// them, and look like their fault.
const MAX_CLAIM_BYTES: usize = 16 << 20;

/// Longest id, in bytes, that is sent back in a rejection.
pub const MAX_NAMED_BYTES: usize = 1024;

/// A job id that can stand in a URL path and a file name: ASCII letters, digits, `.`, `_`, `:` and `-`, at most 128
/// bytes, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct JobId(String);

/// Why a text is no job id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "jobId must be 1 to {MAX_ID_BYTES} ASCII letters, digits, `.`, `_`, `:` or `-`, not beginning with a dot"
)]
pub struct JobIdError;

impl JobId {
    /// Checks and wraps an id.
    pub fn parse(text: &str) -> Result<Self, JobIdError> {
        let sound = !text.is_empty()
            && text.len() <= MAX_ID_BYTES
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(JobIdError)
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A claim that the worker can work with.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The job's id.
    pub job_id: JobId,
    /// Which game it is for; empty where the studio did not say.
    pub game_id: String,
    /// Which asset it is for; empty where the studio did not say.
    pub asset_name: String,
    /// Name of the model.
    pub model: String,
    /// The studio's guess of the memory needed, in GiB.
    pub vram_gb_estimate: f32,
    /// `task.kind`.
    pub kind: String,
    /// The `task` object, verbatim.
    pub task: String,
    /// The `modelSource` object, verbatim.
    pub model_source: String,
    /// The whole claim, verbatim.
    pub raw: String,
}

/// Why a claim cannot be worked with. `job_id` is there when it could be read, so that the offer can be rejected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct ClaimError {
    /// The job to reject, when it can be named: the id as the studio wrote it, at most [`MAX_NAMED_BYTES`] long. It may
    /// be no [`JobId`], so it must go back into a frame and nowhere else.
    pub job_id: Option<String>,
    /// What is wrong, naming the field.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loose<'a> {
    #[serde(borrow)]
    job_id: Option<&'a RawValue>,
    #[serde(borrow)]
    game_id: Option<&'a RawValue>,
    #[serde(borrow)]
    asset_name: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    vram_gb_estimate: Option<&'a RawValue>,
    #[serde(borrow)]
    task: Option<&'a RawValue>,
    #[serde(borrow)]
    model_source: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tagged {
    kind: Option<String>,
}

/// The id alone: what else is in a claim is passed over, and costs no memory however large it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    #[serde(borrow)]
    job_id: &'a RawValue,
}

/// The id in a claim that cannot be read otherwise, for rejecting it: it has another field twice, say.
fn id_in(raw: &str) -> Option<String> {
    let claim: Named<'_> = serde_json::from_str(raw).ok()?;
    let id = text(Some(claim.job_id), "jobId").ok()?;
    (!id.is_empty() && id.len() <= MAX_NAMED_BYTES).then_some(id)
}

impl Claim {
    /// Reads a claim. Unknown fields are kept in [`Claim::raw`]; what is missing or of the wrong type is named.
    pub fn read(raw: &str) -> Result<Self, ClaimError> {
        let nameless = |reason: String| ClaimError {
            job_id: None,
            reason,
        };
        let loose: Loose<'_> = serde_json::from_str(raw).map_err(|e| ClaimError {
            job_id: id_in(raw),
            reason: format!("the claim is not an object the worker can read: {e}"),
        })?;
        let named = text(loose.job_id, "jobId").map_err(nameless)?;
        let known = |reason: String| ClaimError {
            job_id: Some(named.clone()).filter(|id| !id.is_empty() && id.len() <= MAX_NAMED_BYTES),
            reason,
        };
        let job_id = JobId::parse(&named).map_err(|e| known(e.to_string()))?;
        if raw.len() > MAX_CLAIM_BYTES {
            return Err(known(format!(
                "the claim has {} bytes, and the worker takes {MAX_CLAIM_BYTES} at most; give files by URL",
                raw.len()
            )));
        }
        // What is nested deeper than the parser goes could not be looked through for its URLs later.
        if serde_json::from_str::<serde_json::Value>(raw).is_err() {
            return Err(known(
                "the claim is nested too deeply, or holds a number beyond any range".to_owned(),
            ));
        }
        let task = object(loose.task, "task").map_err(known)?;
        let model_source = object(loose.model_source, "modelSource").map_err(known)?;
        let kind = serde_json::from_str::<Tagged>(&task)
            .ok()
            .and_then(|t| t.kind)
            .filter(|kind| !kind.is_empty())
            .ok_or_else(|| known("task.kind is missing or not a text".to_owned()))?;
        Ok(Self {
            game_id: optional_text(loose.game_id, "gameId").map_err(known)?,
            asset_name: optional_text(loose.asset_name, "assetName").map_err(known)?,
            model: text(loose.model, "model").map_err(known)?,
            vram_gb_estimate: number(loose.vram_gb_estimate, "vramGbEstimate").map_err(known)?,
            kind,
            task,
            model_source,
            raw: raw.to_owned(),
            job_id: job_id.clone(),
        })
    }
}

fn text(value: Option<&RawValue>, field: &str) -> Result<String, String> {
    let value = value.ok_or_else(|| format!("{field} is missing"))?;
    serde_json::from_str(value.get()).map_err(|_| format!("{field} is not a text"))
}

fn optional_text(value: Option<&RawValue>, field: &str) -> Result<String, String> {
    match value {
        None => Ok(String::new()),
        some => text(some, field),
    }
}

fn number(value: Option<&RawValue>, field: &str) -> Result<f32, String> {
    let value = value.ok_or_else(|| format!("{field} is missing"))?;
    serde_json::from_str::<f32>(value.get())
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("{field} is not a number of at least 0"))
}

fn object(value: Option<&RawValue>, field: &str) -> Result<String, String> {
    let value = value.ok_or_else(|| {
        format!("the offer has no {field}; it was queued before the studio sent one: queue the job again")
    })?;
    if value.get().trim_start().starts_with('{') {
        Ok(value.get().to_owned())
    } else {
        Err(format!("{field} is not an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"jobId":"job-1","gameId":"g","assetName":"g/a","model":"m","vramGbEstimate":6,"later":1,
        "task":{"kind":"mesh","x":[1]},"modelSource":{"engine":"e"}}"#;

    #[test]
    fn what_cannot_be_read_is_rejected_by_its_id_where_that_can() {
        let twice = WHOLE.replace(r#""model":"m""#, r#""model":"m","model":"n""#);
        let error = Claim::read(&twice).unwrap_err();
        assert_eq!(error.job_id.as_deref(), Some("job-1"));
        assert!(error.reason.contains("model"), "{error}");
        // Whatever else is in it is not looked at for that.
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let error = Claim::read(&twice.replace("[1]", &deep)).unwrap_err();
        assert_eq!(error.job_id.as_deref(), Some("job-1"));
        let large = WHOLE.replace("[1]", &format!(r#""{}""#, "x".repeat(MAX_CLAIM_BYTES)));
        let error = Claim::read(&large).unwrap_err();
        assert_eq!(error.job_id.as_deref(), Some("job-1"));
        assert!(error.reason.contains("16777216 at most"), "{error}");
        let largest = large.len() - MAX_CLAIM_BYTES;
        let fits = large.replacen(&"x".repeat(largest), "", 1);
        assert_eq!(fits.len(), MAX_CLAIM_BYTES);
        assert!(Claim::read(&fits).is_ok());
    }

    #[test]
    fn a_whole_claim_keeps_task_and_source_verbatim() {
        let claim = Claim::read(WHOLE).unwrap();
        assert_eq!(claim.kind, "mesh");
        assert_eq!(claim.task, r#"{"kind":"mesh","x":[1]}"#);
        assert_eq!(claim.model_source, r#"{"engine":"e"}"#);
        assert_eq!(claim.vram_gb_estimate, 6.0);
        assert!(claim.raw.contains("\"later\":1"));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_job_stays_rejectable() {
        for (from, to, field) in [
            (
                r#""vramGbEstimate":6"#,
                r#""vramGbEstimate":null"#,
                "vramGbEstimate",
            ),
            (r#""kind":"mesh","#, "", "task.kind"),
            (r#"{"kind":"mesh","x":[1]}"#, "null", "task"),
            (r#""modelSource":{"engine":"e"}"#, r#""x":1"#, "modelSource"),
            (r#""model":"m""#, r#""model":7"#, "model"),
        ] {
            let error = Claim::read(&WHOLE.replace(from, to)).unwrap_err();
            assert!(error.reason.contains(field), "{}", error.reason);
            assert_eq!(error.job_id.unwrap(), "job-1");
            for word in ["busy", "in-flight", "paused"] {
                assert!(
                    !error.reason.contains(word),
                    "a studio would take it for a passing state"
                );
            }
        }
    }

    #[test]
    fn an_id_that_could_leave_its_place_is_none() {
        for id in [
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "a%2f",
            "é",
            &"x".repeat(129),
        ] {
            assert!(JobId::parse(id).is_err(), "{id}");
            let claim = WHOLE.replace("job-1", id);
            assert_eq!(
                Claim::read(&claim).unwrap_err().job_id.as_deref(),
                Some(id),
                "it can still be rejected"
            );
        }
        assert!(JobId::parse("").is_err());
        let long = WHOLE.replace("job-1", &"x".repeat(MAX_NAMED_BYTES + 1));
        assert_eq!(Claim::read(&long).unwrap_err().job_id, None);
        assert!(JobId::parse("0f3c1d2e-8899:x_1.b").is_ok());
    }

    #[test]
    fn a_claim_nested_beyond_the_parser_is_rejectable() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let error = Claim::read(&WHOLE.replace("[1]", &deep)).unwrap_err();
        assert_eq!(error.job_id.unwrap(), "job-1");
        assert!(error.reason.contains("nested"), "{}", error.reason);
    }
}
