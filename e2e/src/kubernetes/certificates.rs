//! The keys of one API server: an authority, the server's own certificate, the administrator's, and the key by which
//! ServiceAccounts' tokens are signed.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};

/// A folder of keys.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
    /// The authority's certificate.
    pub(super) ca: String,
    admin: (String, String),
}

impl Pki {
    /// Makes everything anew, for a server with these addresses.
    pub(super) fn create(dir: &Path, addresses: &[IpAddr]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let ca = authority()?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "kubernetes.default.svc".to_owned()];
        names.extend(addresses.iter().map(IpAddr::to_string));
        let server = leaf(&ca, "kube-apiserver", None, names, ExtendedKeyUsagePurpose::ServerAuth)?;
        // Members of this group may do everything, whatever RBAC says.
        let group = Some("system:masters");
        let admin = leaf(&ca, "admin", group, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?;
        let accounts = KeyPair::generate()?;

        let pki = Self { dir: dir.to_owned(), ca: ca.pem(), admin };
        pki.write("ca.crt", &pki.ca)?;
        pki.write("server.crt", &server.0)?;
        pki.write("server.key", &server.1)?;
        pki.write("accounts.key", &accounts.serialize_pem())?;
        pki.write("accounts.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    /// A file in the folder, for an option of the server.
    pub(super) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// The administrator's certificate and its key.
    pub(super) fn admin(&self) -> (&str, &str) {
        (&self.admin.0, &self.admin.1)
    }

    fn write(&self, file: &str, content: &str) -> Result<()> {
        fs::write(self.dir.join(file), content).with_context(|| format!("cannot write {}", self.path(file)))
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("testbed", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A certificate and its key.
fn leaf(
    ca: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    group: Option<&str>,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = subject(name, group);
    params.extended_key_usages = vec![usage];
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}

/// Kubernetes reads the common name as the user, the organisation as a group.
fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject
}
