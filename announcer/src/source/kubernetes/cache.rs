//! The last known state on disk, from which an agent serves that starts while the API server is away.
//!
//! A file of lines: what it is, then an object each. It is replaced as a whole, so a crash leaves the one before. What cannot be
//! read is left out and said; a file of another version is no state.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::{store::Objects, vip, watched::Watched};

const FILE: &str = "kubernetes.json";
const VERSION: u32 = 1;
/// More is not read: the state of 10,000 services is a tenth of it.
const MAX_BYTES: u64 = 512 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Which cluster's it is.
    identity: String,
}

#[derive(Serialize)]
struct Line<T> {
    kind: &'static str,
    object: T,
}

#[derive(Deserialize)]
struct ReadLine {
    kind: String,
    object: Value,
}

/// A cluster's identity, and its objects.
pub(super) type Kept = (String, Vec<(Watched, Value)>);

/// What was kept; `None` if there is nothing.
pub(super) fn load(state_dir: &Path) -> Option<Kept> {
    let path = path(state_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the state that was kept cannot be read");
            return None;
        }
    };
    let mut lines = BufReader::new(file.take(MAX_BYTES)).lines().map_while(Result::ok);
    let header: Option<Header> = lines.next().and_then(|line| serde_json::from_str(&line).ok());
    let Some(Header { version: VERSION, identity }) = header else {
        warn!(path = %path.display(), "the state that was kept is of another version; it is not used");
        return None;
    };
    let mut lost = 0_usize;
    let mut read = |line: String| {
        let line: Option<ReadLine> = serde_json::from_str(&line).ok();
        let known = line.and_then(|line| Some((Watched::all().find(|what| what.name() == line.kind)?, line.object)));
        lost += usize::from(known.is_none());
        known
    };
    let objects = lines.filter_map(&mut read).collect();
    if lost > 0 {
        warn!(path = %path.display(), lines = lost, "parts of the state that was kept cannot be read");
    }
    Some((identity, objects))
}

/// Keeps these objects in place of what was kept.
///
/// # Errors
/// If the file cannot be written; the one before is still there then.
pub(super) fn save(state_dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, fresh) = (path(state_dir), state_dir.join(format!("{FILE}.new")));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)
}

/// What [`save`] is to write.
///
/// # Errors
/// If an object cannot be written as JSON, which no object that was read is.
pub(super) fn write(objects: &Objects) -> io::Result<Vec<u8>> {
    let mut out = BufWriter::new(Vec::new());
    serde_json::to_writer(&mut out, &Header { version: VERSION, identity: objects.identity.clone() })?;
    out.write_all(b"\n")?;
    for (key, object) in objects.index.objects() {
        serde_json::to_writer(&mut out, &Line { kind: key.kind.name(), object })?;
        out.write_all(b"\n")?;
    }
    for (name, record) in &objects.vips {
        serde_json::to_writer(&mut out, &Line { kind: Watched::Vip.name(), object: vip::object(name, record) })?;
        out.write_all(b"\n")?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::objects::Kind,
        source::kubernetes::{store::Store, watch::News},
    };

    fn filled() -> Store {
        let mut store = Store::default();
        let what = Watched::Model(Kind::Service);
        store.take(what, News::Listing("a".to_owned()));
        let service = json!({
            "metadata": {"name": "web", "namespace": "default", "resourceVersion": "7"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": "http"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}
        });
        store.take(what, News::Changed(service));
        let pool = json!({
            "metadata": {"name": "lan", "namespace": "crier-system"},
            "spec": {"addresses": ["10.0.0.0/28"], "avoidBuggyIPs": true, "serviceAllocation": {"priority": 5}}
        });
        store.take(Watched::Model(Kind::IPAddressPool), News::Changed(pool));
        let vip = json!({
            "metadata": {"name": "web", "namespace": "default", "ownerReferences": [{"uid": "u"}]},
            "status": {"owner": "n1", "addresses": [{"ip": "10.0.0.1"}]}
        });
        store.take(Watched::Vip, News::Changed(vip));
        store
    }

    #[test]
    fn what_was_kept_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).is_none());
        let store = filled();
        save(folder.path(), &write(&store.live).unwrap()).unwrap();
        let (identity, objects) = load(folder.path()).unwrap();
        let back = Store::remembering(identity, objects);
        assert_eq!(back.live.identity, "a");
        assert!(back.live.index.objects().eq(store.live.index.objects()));
        assert_eq!(back.live.index.objects().count(), 2);
        assert_eq!((back.live.vips.len(), &back.live.vips), (1, &store.live.vips));
    }

    #[test]
    fn a_broken_line_costs_itself_and_another_version_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let text = String::from_utf8(write(&filled().live).unwrap()).unwrap();
        let torn = text.replacen("{\"kind\":\"Service\"", "{\"kind\":\"Serv", 1);
        save(folder.path(), torn.as_bytes()).unwrap();
        assert_eq!(load(folder.path()).unwrap().1.len(), 2);
        let cut = &text.as_bytes()[..text.len() - 20];
        save(folder.path(), cut).unwrap();
        assert_eq!(load(folder.path()).unwrap().1.len(), 2);
        save(folder.path(), text.replacen("\"version\":1", "\"version\":2", 1).as_bytes()).unwrap();
        assert!(load(folder.path()).is_none());
        save(folder.path(), &[0xff; 100]).unwrap();
        assert!(load(folder.path()).is_none());
    }
}
