//! Where etcd, kube-apiserver and kubectl are: in the folder that `KUBEBUILDER_ASSETS` names, as controller authors have
//! them, else in `target/kubernetes/bin`, where `hack/kubernetes` builds them.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::agent::target_dir;

/// The three programs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) etcd: PathBuf,
    pub(super) kube_apiserver: PathBuf,
    pub(super) kubectl: PathBuf,
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// When one is missing: with the command that builds it.
    pub(super) fn find() -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|assets| !assets.is_empty()).map(PathBuf::from);
        let (folder, how) = match assets {
            Some(folder) => (folder, "KUBEBUILDER_ASSETS names a folder without it"),
            None => (target_dir()?.join("kubernetes/bin"), "run `hack/kubernetes`, or set KUBEBUILDER_ASSETS"),
        };
        let find = |name: &str| {
            let path = folder.join(name);
            ensure!(path.is_file(), "there is no {}: {how}", path.display());
            Ok(path)
        };
        Ok(Self { etcd: find("etcd")?, kube_apiserver: find("kube-apiserver")?, kubectl: find("kubectl")? })
    }
}
