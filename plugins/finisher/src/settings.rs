//! What the operator set for this plugin in `plugins.toml`.

use studio_plugin::json::Value;
use studio_plugin::{Failure, RawJob};

/// Whether pictures of one colour are what the job's model makes.
pub(crate) fn allows_uniform(job: &RawJob) -> Result<bool, Failure> {
    let wrong = || {
        Failure::permanent(
            "the setting allow-uniform of finisher in plugins.toml must be a list of model names; mend it and send the job again",
        )
    };
    let settings = job.settings()?;
    let Some(models) = settings.get("allow-uniform") else {
        return Ok(false);
    };
    let models = models.as_array().ok_or_else(wrong)?;
    if !models.iter().all(Value::is_string) {
        return Err(wrong());
    }
    Ok(models
        .iter()
        .any(|model| model.as_str() == Some(&job.model)))
}
