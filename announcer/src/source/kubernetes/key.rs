//! The cluster's key for the gossip, where Kubernetes is the source: a Secret in Crier's namespace, which the first agent makes.
//! A copy lies in the state directory, for starts without the API server.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use membership::KeyRing;
use tracing::{info, warn};

use super::access::Access;

/// The Secret, and its entry.
const SECRET: &str = "crier-gossip";
const ENTRY: &str = "gossip.key";
/// From one attempt to the next while there is neither an answer nor a copy.
const RETRY: Duration = Duration::from_secs(2);
/// How long an answer is waited for while there is a copy.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file with the keys: the Secret's, or what it said last. Waits for the API server as long as there is neither.
pub async fn file(access: &Access, state_dir: &Path) -> PathBuf {
    let path = state_dir.join(ENTRY);
    loop {
        let asked = tokio::time::timeout(PATIENCE, ask(access)).await;
        let problem = match asked {
            Ok(Ok(text)) => match keep(&path, &text) {
                Ok(()) => return path,
                Err(error) => format!("{}: {error}", path.display()),
            },
            Ok(Err(error)) => error,
            Err(_) => format!("{} does not answer", access.server),
        };
        if path.exists() {
            warn!(problem, "the Secret {SECRET} cannot be read; using the keys it had");
            return path;
        }
        warn!(problem, "waiting for the Secret {SECRET}, which has the gossip's key");
        tokio::time::sleep(RETRY).await;
    }
}

/// The Secret's keys; makes it if there is none.
async fn ask(access: &Access) -> Result<String, String> {
    let secrets: Api<Secret> = Api::namespaced(access.client.clone(), &access.namespace);
    let explain = |error: kube::Error| format!("Secret {}/{SECRET}: {error}", access.namespace);
    let secret = match secrets.get_opt(SECRET).await.map_err(explain)? {
        Some(secret) => secret,
        None => match secrets.create(&PostParams::default(), &new(&access.namespace)).await {
            Ok(made) => {
                info!(namespace = access.namespace, "made the Secret {SECRET} with a new key for the gossip");
                made
            }
            // Another agent was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(SECRET).await.map_err(explain)?,
            Err(error) => return Err(explain(error)),
        },
    };
    let wrong = |what: &str| format!("Secret {}/{SECRET}: data.{ENTRY}: {what}", access.namespace);
    let entry = secret.data.and_then(|mut data| data.remove(ENTRY)).ok_or_else(|| wrong("missing"))?;
    let text = String::from_utf8(entry.0).map_err(|_| wrong("is no text"))?;
    KeyRing::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    Ok(text)
}

fn new(namespace: &str) -> Secret {
    let text = format!("{}\n", membership::new_key());
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([("app.kubernetes.io/name".to_owned(), "crier".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(text.into_bytes()))])),
        ..Secret::default()
    }
}

fn keep(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
