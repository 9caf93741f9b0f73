//! HTTP and HTTPS probes: a GET (RFC 9110) must be answered with an expected status.
//!
//! Redirects are not followed, as the status of the first answer is what the check judges. The server's certificate
//! is not verified: pods rarely have one for their address, and kubelet's probes do not verify it either.

use std::{net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::tcp::{describe, failed};
use crate::{health::state::Answer, model::HttpCheck};

/// Answers with a longer head than this fail the probe, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// No more of a body than this is read, bytes; the rest is left to the pod.
const MAX_BODY: usize = 16 * 1024;

/// Asks `address` for the check's path. The caller bounds the time.
pub(super) async fn ask(address: SocketAddr, check: &HttpCheck, tls: &Arc<ClientConfig>) -> Answer {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return failed(&error),
    };
    if !check.tls {
        return exchange(stream, address, check).await;
    }
    let connector = TlsConnector::from(Arc::clone(tls));
    match connector.connect(server_name(address, check), stream).await {
        Ok(stream) => exchange(stream, address, check).await,
        Err(error) => Answer::Failure(format!("TLS handshake: {}", describe(&error))),
    }
}

/// A TLS configuration that accepts every certificate, to be shared by all probes.
///
/// # Errors
/// If the crypto provider supports no TLS version.
pub(super) fn tls_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The Host of the check without its port, if that is a name TLS can carry; the pod's address otherwise.
fn server_name(address: SocketAddr, check: &HttpCheck) -> ServerName<'static> {
    let name = check.host.as_deref().and_then(|host| host.parse::<hyper::http::uri::Authority>().ok());
    name.and_then(|authority| ServerName::try_from(authority.host().to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

async fn exchange<S>(stream: S, address: SocketAddr, check: &HttpCheck) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = match request(address, check) {
        Ok(request) => request,
        Err(error) => return Answer::Failure(format!("the check's path or host is not valid: {error}")),
    };
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
        Ok(both) => both,
        Err(error) => return Answer::Failure(explain(&error)),
    };
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| explain(&error))?;
        judge(response, check).await
    };
    // One future, not a task for the connection: whoever drops the probe at its deadline closes the socket too.
    let mut answered = std::pin::pin!(answered);
    let outcome = tokio::select! {
        outcome = &mut answered => outcome,
        _ = connection => answered.await,
    };
    outcome.map_or_else(Answer::Failure, Answer::Success)
}

fn request(address: SocketAddr, check: &HttpCheck) -> hyper::http::Result<Request<Empty<Bytes>>> {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    Request::get(check.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("crier/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
}

/// Judges the status, once the body (or its first [`MAX_BODY`] bytes) has come: a pod that hangs while it answers is
/// not well.
async fn judge(mut response: Response<Incoming>, check: &HttpCheck) -> Result<String, String> {
    let status = response.status();
    let mut read = 0;
    while read < MAX_BODY {
        match response.body_mut().frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(1, |data| data.len().max(1)),
            Some(Err(error)) => return Err(explain(&error)),
            None => break,
        }
    }
    if accepts(&check.expect, status) {
        return Ok(format!("HTTP {}", status.as_u16()));
    }
    Err(format!("HTTP {}, expected {}", status.as_u16(), ranges(&check.expect)))
}

/// Whether the status is in one of the ranges.
fn accepts(expect: &[(u16, u16)], status: StatusCode) -> bool {
    expect.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()))
}

/// The ranges as people write them: `200-299,404`.
fn ranges(expect: &[(u16, u16)]) -> String {
    let range = |(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    expect.iter().map(range).collect::<Vec<_>>().join(",")
}

/// What hyper found, in words; for errors of the socket, the socket's words.
fn explain(error: &hyper::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return describe(io);
        }
        source = cause.source();
    }
    if error.is_parse_too_large() {
        return format!("the answer's headers are larger than {MAX_HEAD} bytes");
    }
    if error.is_parse() {
        return format!("not HTTP: {error}");
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "connection closed before an answer".to_owned();
    }
    error.to_string()
}

/// Accepts every certificate, yet checks that the peer holds its key, as the handshake demands.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
