//! Pulling a component from a registry by the distribution API.
//!
//! By digest: a tag is resolved once, and whatever comes is hashed and compared with what named it, the manifest as well as the
//! layer.

use tokio_util::sync::CancellationToken;
use url::{Host, Url};
use worker_egress::{Credential, DownloadError, Egress, Reading, Received, shown_url};

use crate::challenge::Challenge;
use crate::error::SupplyError;
use crate::manifest::{Descriptor, INDEX, MANIFEST, Manifest};
use crate::reference::{Reference, is_digest};
use crate::{MAX_PLUGIN, Supplied, digest_of};

/// Largest manifest or index, in bytes. One of a component has a kilobyte; registries take four megabytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Largest answer with a token, in bytes.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;

/// One pull.
struct Pull<'a> {
    egress: &'a Egress,
    reference: &'a Reference,
    base: Url,
    /// The token that was given for this pull. It goes to the registry, below its API, and nowhere else.
    token: Vec<Credential>,
    /// Whether a token was asked for: that is done once.
    asked: bool,
    cancel: &'a CancellationToken,
}

pub(crate) async fn pull(
    egress: &Egress,
    reference: &Reference,
    cancel: &CancellationToken,
) -> Result<Supplied, SupplyError> {
    let mut pull = Pull {
        egress,
        reference,
        base: base(&reference.host)?,
        token: Vec::new(),
        asked: false,
        cancel,
    };
    let shown = reference.to_string();
    let (bytes, digest) = pull.manifest(reference.version_text()).await?;
    let manifest = match Manifest::read(&bytes, &shown)? {
        Manifest::Listed(listed) => {
            let (bytes, _) = pull.manifest(&listed.digest).await?;
            Manifest::read(&bytes, &shown)?
        }
        plugin => plugin,
    };
    let Manifest::Plugin { layer, signature } = manifest else {
        return Err(SupplyError::NoPlugin {
            reference: shown,
            why: "its index leads to another index".to_owned(),
        });
    };
    let bytes = pull.layer(&layer).await?;
    let tag = reference.tag().map(|tag| format!(":{tag}"));
    Ok(Supplied {
        bytes,
        signature,
        from: format!(
            "oci://{}/{}{}@{digest}",
            reference.host,
            reference.name,
            tag.unwrap_or_default()
        ),
    })
}

/// Where the registry's API is. Plain http for this machine alone, where that is allowed at all is the egress rules' to say.
fn base(host: &str) -> Result<Url, SupplyError> {
    let no_address = |_| SupplyError::NoAddress {
        address: format!("oci://{host}"),
    };
    let url = Url::parse(&format!("https://{host}/v2/")).map_err(no_address)?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match local {
        true => Url::parse(&format!("http://{host}/v2/")).map_err(no_address),
        false => Ok(url),
    }
}

impl Pull<'_> {
    /// A manifest's bytes and their digest. `version` is a tag or a digest.
    async fn manifest(&mut self, version: &str) -> Result<(Vec<u8>, String), SupplyError> {
        let accept = format!("{MANIFEST}, {INDEX}");
        let path = format!("manifests/{version}");
        let received = self.get(&path, Some(&accept), MAX_MANIFEST).await?;
        let found = digest_of(&received.bytes);
        // What the registry says of its own answer is compared too: where the two differ, something lies.
        let said = received.header("docker-content-digest");
        let said = said.filter(|said| is_digest(said));
        let wanted = is_digest(version).then_some(version);
        for wanted in said.into_iter().chain(wanted) {
            same("the manifest", wanted, &found)?;
        }
        Ok((received.bytes, found))
    }

    async fn layer(&mut self, layer: &Descriptor) -> Result<Vec<u8>, SupplyError> {
        let path = format!("blobs/{}", layer.digest);
        if layer.size > MAX_PLUGIN {
            return Err(DownloadError::TooLarge {
                url: shown_url(self.url(&path)?.as_str()),
                limit: MAX_PLUGIN,
            }
            .into());
        }
        let received = self.get(&path, None, layer.size).await?;
        same("the component", &layer.digest, &digest_of(&received.bytes))?;
        Ok(received.bytes)
    }

    fn url(&self, path: &str) -> Result<Url, SupplyError> {
        let text = format!("{}{}/{path}", self.base, self.reference.name);
        Url::parse(&text).map_err(|_| SupplyError::NoAddress {
            address: shown_url(&text),
        })
    }

    /// What lies at a path of the repository. Asks for a token where the registry wants one, once.
    async fn get(
        &mut self,
        path: &str,
        accept: Option<&str>,
        max_bytes: u64,
    ) -> Result<Received, SupplyError> {
        let url = self.url(path)?;
        let mut received = self.read(&url, accept, max_bytes).await?;
        if received.status == 401 && !self.asked {
            self.asked = true;
            let header = received.header("www-authenticate").unwrap_or_default();
            if let Some(challenge) = Challenge::parse(header) {
                let token = self.token(&challenge).await?;
                self.token = vec![token];
                received = self.read(&url, accept, max_bytes).await?;
            }
        }
        match received.status {
            200 => Ok(received),
            status => Err(SupplyError::Status {
                url: shown_url(url.as_str()),
                status,
            }),
        }
    }

    async fn read(
        &self,
        url: &Url,
        accept: Option<&str>,
        max_bytes: u64,
    ) -> Result<Received, SupplyError> {
        let reading = Reading {
            url: url.as_str(),
            accept,
            logins: &self.token,
            max_bytes,
        };
        Ok(self.egress.read(&reading, self.cancel).await?)
    }

    /// A token for reading this repository. The operator's login for the place that gives tokens goes there where that is the registry's
    /// own host, or the login names this registry: else any registry could have tokens bought for it. Without one the token is anybody's.
    async fn token(&self, challenge: &Challenge) -> Result<Credential, SupplyError> {
        let unusable = |why: &str| SupplyError::Challenge {
            why: why.to_owned(),
        };
        let mut realm = Url::parse(&challenge.realm).map_err(|_| unusable("it is no URL"))?;
        // As strict as for a redirect: a registry out there sends nobody to this machine.
        self.egress
            .check_next(&self.base, &realm)
            .map_err(|why| unusable(&why.to_string()))?;
        realm.set_fragment(None);
        // A scope in it would be the registry's choice.
        realm.set_query(None);
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = &challenge.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &format!("repository:{}:pull", self.reference.name));
        }
        let reading = Reading {
            url: realm.as_str(),
            accept: None,
            logins: &[],
            max_bytes: MAX_TOKEN_ANSWER,
        };
        let egress = self.egress.for_tokens_of(&self.reference.host);
        let received = egress.read(&reading, self.cancel).await?;
        if received.status != 200 {
            return Err(SupplyError::Status {
                url: shown_url(realm.as_str()),
                status: received.status,
            });
        }
        let answer: serde_json::Value = serde_json::from_slice(&received.bytes)
            .map_err(|_| unusable("what it gave is no JSON"))?;
        let token = ["token", "access_token"]
            .iter()
            .find_map(|name| answer.get(name)?.as_str())
            .ok_or_else(|| unusable("what it gave holds no token"))?;
        Credential::bearer(&self.reference.host, "/v2/", token)
            .map_err(|_| unusable("what it gave cannot be a token"))
    }
}

fn same(what: &'static str, wanted: &str, found: &str) -> Result<(), SupplyError> {
    match wanted == found {
        true => Ok(()),
        false => Err(SupplyError::Digest {
            what,
            wanted: wanted.to_owned(),
            found: found.to_owned(),
        }),
    }
}
