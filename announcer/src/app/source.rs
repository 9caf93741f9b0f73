//! Where the objects come from: chosen by the configuration, and begun in the order in which the rest of the agent needs it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use membership::{NodeName, View};
use tokio::sync::watch;

use super::controller::Owners;

use crate::{
    config::{Settings, SourceSettings},
    io::publish,
    source::{
        Snapshot,
        kubernetes::{self, Access, AccessError, writer},
        manifests,
    },
};

/// A source that has not been asked for anything yet.
pub(super) enum Origin {
    /// A folder.
    Folder(PathBuf),
    /// An API server.
    Api(Access),
}

impl Origin {
    /// What the settings name.
    pub(super) async fn find(settings: &Settings) -> Result<Self, AccessError> {
        Ok(match &settings.source {
            SourceSettings::Manifests(folder) => Self::Folder(folder.clone()),
            SourceSettings::Kubernetes(kubeconfig) => {
                Self::Api(Access::find(kubeconfig.as_deref(), settings.node.as_str()).await?)
            }
        })
    }

    /// What kind it is, and where.
    pub(super) fn name(&self) -> (&'static str, String) {
        match self {
            Self::Folder(folder) => ("manifests", folder.display().to_string()),
            Self::Api(access) => ("kubernetes", access.server.clone()),
        }
    }

    /// The file with the gossip's keys: as configured, if it is there; else from the API server's Secret.
    pub(super) async fn key_file(&self, settings: &Settings) -> PathBuf {
        match self {
            Self::Api(access) if !settings.gossip.key_file.exists() => {
                kubernetes::key_file(access, &settings.state_dir).await
            }
            Self::Api(_) | Self::Folder(_) => settings.gossip.key_file.clone(),
        }
    }

    /// Begins to read. The first snapshot is there when this returns.
    pub(super) async fn read(self, state_dir: &Path) -> Objects {
        match self {
            Self::Folder(folder) => Objects { snapshots: manifests::watch(folder).await, api: None },
            Self::Api(access) => {
                let source = kubernetes::start(access, state_dir).await;
                Objects { snapshots: source.snapshots.clone(), api: Some(source) }
            }
        }
    }
}

/// The objects, whenever they change.
pub(super) struct Objects {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is written back to, if that can be.
    api: Option<kubernetes::Source>,
}

impl Objects {
    /// Writes what people look at to where the objects come from, if that can be written to.
    pub(super) fn write_back(
        self,
        me: &NodeName,
        view: watch::Receiver<Arc<View>>,
        owners: watch::Receiver<Arc<Owners>>,
    ) {
        if let Some(api) = self.api {
            tokio::spawn(writer::run(api, writer::Inputs { me: me.clone(), view, owners }));
        }
    }

    /// Where the source says that agents are, at the gossip's port.
    pub(super) fn peers(&self, port: u16) -> watch::Receiver<Vec<SocketAddr>> {
        let mut snapshots = self.snapshots.clone();
        let (out, peers) = watch::channel(Vec::new());
        tokio::spawn(async move {
            loop {
                let found =
                    snapshots.borrow_and_update().peers.iter().map(|peer| SocketAddr::new(*peer, port)).collect();
                publish(&out, found);
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        });
        peers
    }
}
