//! Frames in both directions: text messages, one JSON object each, tagged by `type`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{Capabilities, ErrorCode, LogEntry, PluginStatus, Secret, ServedBy};

/// What a worker sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum WorkerFrame {
    /// First frame of a session, and the only one before `welcome`.
    Hello {
        /// The worker's token.
        auth_token: Secret,
        /// What the worker serves.
        capabilities: Capabilities,
    },
    /// Every five seconds.
    Heartbeat {
        /// What the worker serves now.
        capabilities: Capabilities,
        /// The job in hand; omitted when idle.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        current_job_id: Option<String>,
    },
    /// An offer is taken.
    Accept {
        /// Whose.
        job_id: String,
    },
    /// An offer is not taken.
    Reject {
        /// Whose.
        job_id: String,
        /// For people, and for studios that match its text.
        reason: String,
        /// For studios that match codes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// A job's JSON result.
    CompleteJson {
        /// Whose.
        job_id: String,
        /// The result, any JSON, written as the engine wrote it: numbers of any size and shape.
        #[serde(deserialize_with = "any_json")]
        result: Box<RawValue>,
        /// The full text that people know the job by.
        #[serde(default)]
        prompt: String,
    },
    /// A job failed after it was accepted.
    Fail {
        /// Whose.
        job_id: String,
        /// What, why, what to do: one line.
        error: String,
        /// Whether the studio should offer it again.
        retryable: bool,
    },
    /// Log lines for the studio's operators.
    LogBatch {
        /// At least one.
        entries: Vec<LogEntry>,
    },
    /// Defined by the protocol, never sent by this worker: it races the studio's own next offer.
    ReadyForMore,
    /// Extension `progress`.
    Progress {
        /// Whose.
        job_id: String,
        /// Steps done.
        done: u32,
        /// Steps in all; 0 where unknown.
        total: u32,
        /// What is going on, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// Extension `pluginStatus`: how a plugin stands.
    PluginStatus(PluginStatus),
    /// Extension `servedBy`: which plugins have an accepted job. Sent again when it begins anew on others.
    ServedBy {
        /// Whose.
        job_id: String,
        /// Which.
        #[serde(flatten)]
        by: ServedBy,
    },
    /// A type that this side does not know; ignored.
    #[serde(other)]
    Unknown,
}

/// A studio's greeting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Welcome {
    /// The worker's id as the studio knows it.
    pub worker_id: String,
    /// Opaque.
    pub server_time: String,
    /// Frames beyond the protocol that the studio can take part in.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "texts_among"
    )]
    pub extensions: Vec<String>,
}

/// The texts of a list. Whatever else a studio writes in a field beyond the protocol must not cost the session.
fn texts_among<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Vec<String>, D::Error> {
    let value = serde_json::Value::deserialize(reader)?;
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = items.iter().filter_map(serde_json::Value::as_str);
    Ok(texts.map(str::to_owned).collect())
}

/// What a studio sends.
#[derive(Clone, Debug)]
pub enum ServerFrame {
    /// Opens the session.
    Welcome(Welcome),
    /// An offered job: the claim, verbatim.
    Offer(String),
    /// Answers a heartbeat.
    HeartbeatAck,
    /// A JSON result was received.
    CompleteAck(String),
    /// A failure was received.
    FailAck(String),
    /// Something is wrong; a close usually follows.
    Error {
        /// Which of the known errors.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// Extension `jobCancel`: stop this job.
    JobCancel(String),
    /// Extension `pluginUpdate`: run this plugin. The frame's whole text, for [`crate::PluginUpdate::read`].
    PluginUpdate(String),
    /// A type that this side does not know: ignored, and said.
    Unknown(String),
}

/// Why a message is no frame. The session goes on all the same.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not JSON, or not an object with a text `type`.
    #[error("a message is not a JSON object with a `type`")]
    Untagged,
    /// A known frame without what it must carry.
    #[error("a `{frame}` frame is malformed: {reason}")]
    Malformed {
        /// Its type.
        frame: String,
        /// Which field.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    frame: String,
}

#[derive(Deserialize)]
struct OfferBody<'a> {
    #[serde(borrow)]
    claim: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobBody {
    job_id: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    message: String,
}

impl ServerFrame {
    /// Reads one text message.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let head: Head = serde_json::from_str(text).map_err(|_| FrameError::Untagged)?;
        let frame = head.frame;
        match frame.as_str() {
            "welcome" => body(&frame, text).map(Self::Welcome),
            "offer" => {
                body::<OfferBody<'_>>(&frame, text).map(|b| Self::Offer(b.claim.get().to_owned()))
            }
            "heartbeatAck" => Ok(Self::HeartbeatAck),
            "completeAck" => body::<JobBody>(&frame, text).map(|b| Self::CompleteAck(b.job_id)),
            "failAck" => body::<JobBody>(&frame, text).map(|b| Self::FailAck(b.job_id)),
            "jobCancel" => body::<JobBody>(&frame, text).map(|b| Self::JobCancel(b.job_id)),
            "pluginUpdate" => Ok(Self::PluginUpdate(text.to_owned())),
            "error" => body::<ErrorBody>(&frame, text).map(|b| Self::Error {
                code: ErrorCode::from_wire(&b.code),
                message: b.message,
            }),
            _ => Ok(Self::Unknown(frame)),
        }
    }

    /// The message for it, as the studio's side writes it.
    pub fn to_text(&self) -> String {
        let value = match self {
            Self::Welcome(welcome) => {
                let mut value = serde_json::to_value(welcome).unwrap_or_default();
                if let Some(object) = value.as_object_mut() {
                    object.insert("type".to_owned(), "welcome".into());
                }
                value
            }
            // The claim goes out byte for byte as it was queued.
            Self::Offer(claim) => return format!(r#"{{"type":"offer","claim":{claim}}}"#),
            Self::PluginUpdate(text) => return text.clone(),
            Self::HeartbeatAck => serde_json::json!({"type": "heartbeatAck"}),
            Self::CompleteAck(id) => serde_json::json!({"type": "completeAck", "jobId": id}),
            Self::FailAck(id) => serde_json::json!({"type": "failAck", "jobId": id}),
            Self::JobCancel(id) => serde_json::json!({"type": "jobCancel", "jobId": id}),
            Self::Error { code, message } => {
                serde_json::json!({"type": "error", "code": code.as_wire(), "message": message})
            }
            Self::Unknown(frame) => serde_json::json!({ "type": frame }),
        };
        value.to_string()
    }
}

fn body<'a, T: Deserialize<'a>>(frame: &str, text: &'a str) -> Result<T, FrameError> {
    serde_json::from_str(text).map_err(|e| FrameError::Malformed {
        frame: frame.to_owned(),
        reason: e.to_string(),
    })
}

/// A frame's result, read. A tagged frame is buffered before its fields are, and what was buffered is no longer the text that
/// came: whoever needs that reads the frame's text once more.
fn any_json<'de, D: Deserializer<'de>>(from: D) -> Result<Box<RawValue>, D::Error> {
    let value = Value::deserialize(from)?;
    RawValue::from_string(value.to_string()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_frame_is_no_error() {
        assert!(matches!(
            ServerFrame::parse(r#"{"type":"teaBreak","minutes":5}"#),
            Ok(ServerFrame::Unknown(name)) if name == "teaBreak"
        ));
        assert!(matches!(
            serde_json::from_str::<WorkerFrame>(r#"{"type":"teaBreak","minutes":5}"#),
            Ok(WorkerFrame::Unknown)
        ));
    }

    #[test]
    fn extensions_that_are_no_list_of_texts_cost_no_session() {
        for (written, read) in [
            ("null", vec![]),
            (r#""resume""#, vec![]),
            (r#"["resume",7,null]"#, vec!["resume"]),
        ] {
            let text = format!(r#"{{"type":"welcome","workerId":"w","extensions":{written}}}"#);
            let Ok(ServerFrame::Welcome(welcome)) = ServerFrame::parse(&text) else {
                panic!("{written}");
            };
            assert_eq!(welcome.extensions, read);
        }
    }

    #[test]
    fn a_claim_passes_through_byte_for_byte() {
        let claim = r#"{"b":1.0,"a":{"n":18446744073709551615}}"#;
        let text = ServerFrame::Offer(claim.to_owned()).to_text();
        assert!(matches!(ServerFrame::parse(&text), Ok(ServerFrame::Offer(c)) if c == claim));
    }

    #[test]
    fn garbage_is_told_from_a_malformed_frame() {
        for text in ["", "[]", "nonsense", "{}", r#"{"type":7}"#] {
            assert!(
                matches!(ServerFrame::parse(text), Err(FrameError::Untagged)),
                "{text}"
            );
        }
        for text in [
            r#"{"type":"offer"}"#,
            r#"{"type":"completeAck","jobId":1}"#,
            r#"{"type":"error"}"#,
        ] {
            assert!(
                matches!(ServerFrame::parse(text), Err(FrameError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn absent_optionals_are_omitted() {
        let text = serde_json::to_string(&WorkerFrame::Heartbeat {
            capabilities: Capabilities::default(),
            current_job_id: None,
        })
        .unwrap();
        assert!(
            text.starts_with(r#"{"type":"heartbeat","capabilities":{"machineName":"","#),
            "{text}"
        );
        assert!(!text.contains("currentJobId") && !text.contains("userPresence"));
    }

    #[test]
    fn a_result_is_sent_as_it_was_written() {
        let result = r#"{"b":123456789012345678901234567890, "a":[1.0,1e2,-0.0]}"#;
        let frame = WorkerFrame::CompleteJson {
            job_id: "j".to_owned(),
            result: RawValue::from_string(result.to_owned()).unwrap(),
            prompt: "p".to_owned(),
        };
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(
            text,
            format!(r#"{{"type":"completeJson","jobId":"j","result":{result},"prompt":"p"}}"#)
        );
        assert!(matches!(
            serde_json::from_str(&text),
            Ok(WorkerFrame::CompleteJson { job_id, .. }) if job_id == "j"
        ));
    }
}
