//! Owns TLS over a wire, and which certificates it trusts. Must not know HTTP. None of it runs in a plain probe.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::PollFlags;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    SignatureScheme,
};

use super::deadline::{Deadline, shown_duration};
use super::wire::{Broken, Wire};
use crate::health::host::without_zone;
use crate::health::terms::Terms;

mod words;

use words::{Context, words};

/// A TLS connection.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    tls: ClientConnection,
    /// The server has sent something.
    received: bool,
    /// The host is an address, so no server name (SNI) was sent.
    by_address: bool,
    client: Arc<Client>,
    alpn: Alpn,
}

/// The protocol inside TLS, announced by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    Http,
    Http2,
}

impl Session {
    /// Performs the handshake with `host` over `wire`.
    ///
    /// # Errors
    /// Why the handshake failed or the certificate is not trusted, with the option that helps.
    pub fn start(wire: Wire, host: &str, alpn: Alpn, terms: &Terms, deadline: Deadline) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if terms.insecure {
            Arc::new(AcceptAny)
        } else {
            Arc::new(Trusted::load(terms.ca.as_deref(), Arc::clone(&provider))?)
        };
        let client = Arc::new(Client::load(terms.cert.as_deref().zip(terms.key.as_deref()), &provider)?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&client) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![match alpn {
            Alpn::Http => b"http/1.1".to_vec(),
            Alpn::Http2 => b"h2".to_vec(),
        }];
        let name = ServerName::try_from(without_zone(host).to_owned())
            .map_err(|_| format!("{host} is not a name that a certificate can have"))?;
        let by_address = matches!(name, ServerName::IpAddress(_));
        let tls = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
        let mut session = Self { wire, tls, received: false, by_address, client, alpn };
        while session.tls.is_handshaking() {
            session.step(deadline).map_err(|broken| {
                let silent = if session.received { "" } else { words::SILENT };
                match broken {
                    Broken::Timeout => {
                        format!("timed out after {} during the TLS handshake{silent}", shown_duration(deadline.total()))
                    }
                    Broken::Error(why) => format!("TLS: {why} during the handshake{silent}"),
                    Broken::Explained(why) => why,
                }
            })?;
        }
        Ok(session)
    }

    pub fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Broken> {
        self.tls.writer().write_all(bytes)?;
        self.write(deadline)
    }

    pub fn receive(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, Broken> {
        loop {
            match self.tls.reader().read(buffer) {
                Ok(size) => return Ok(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.step(deadline)?,
                // EOF without close_notify. HTTP decides whether the response is complete.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends close_notify and waits for the peer to close, within the deadline.
    pub fn close(&mut self, deadline: Deadline) {
        self.tls.send_close_notify();
        if self.flush(deadline).is_ok() {
            self.wire.close(deadline);
        }
    }

    /// Writes what TLS has pending, then reads once.
    fn step(&mut self, deadline: Deadline) -> Result<(), Broken> {
        self.write(deadline)?;
        if self.tls.wants_read() { self.read(deadline) } else { Ok(()) }
    }

    /// Writes what TLS has pending. If the server has closed, its alert explains more than the broken pipe.
    fn write(&mut self, deadline: Deadline) -> Result<(), Broken> {
        match self.flush(deadline) {
            Err(Broken::Error(why)) => match self.read(deadline) {
                Err(Broken::Explained(alert)) => Err(Broken::Explained(alert)),
                _ => Err(Broken::Error(why)),
            },
            other => other,
        }
    }

    /// Reads once.
    fn read(&mut self, deadline: Deadline) -> Result<(), Broken> {
        self.wire.wait(PollFlags::POLLIN, deadline)?;
        match self.tls.read_tls(self.wire.socket()) {
            Ok(0) if self.tls.is_handshaking() => {
                return Err(Broken::Error("the server closed the connection".to_owned()));
            }
            Ok(size) => self.received |= size > 0,
            Err(error) if retry(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = self.tls.process_new_packets() {
            // Tell the server why. It does not matter whether this arrives.
            let _ = self.tls.write_tls(self.wire.socket());
            let context = Context {
                version_known: self.tls.protocol_version().is_some(),
                certificate_requested: self.client.requested.load(Ordering::Relaxed),
                certificate_available: self.client.identity.is_some(),
                http2: self.alpn == Alpn::Http2,
                by_address: self.by_address,
            };
            return Err(Broken::Explained(format!("TLS: {}", words(&error, context))));
        }
        Ok(())
    }

    fn flush(&mut self, deadline: Deadline) -> Result<(), Broken> {
        while self.tls.wants_write() {
            match self.tls.write_tls(self.wire.socket()) {
                Ok(_) => {}
                Err(error) if retry(&error) => self.wire.wait(PollFlags::POLLOUT, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without close_notify, servers may log a truncation attack. One attempt, no waiting.
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(self.wire.socket());
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The client's identity: `--cert` and `--key`, or none. Records whether the server requested one, which alerts before TLS 1.3 do not
/// tell.
#[derive(Debug)]
struct Client {
    identity: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
}

impl Client {
    fn load(files: Option<(&Path, &Path)>, provider: &CryptoProvider) -> Result<Self, String> {
        let identity = match files {
            None => None,
            Some((cert, key)) => {
                let chain = read_bundle("--cert", cert)?;
                if chain.is_empty() {
                    return Err(format!("--cert {cert:?} holds no certificate"));
                }
                let pem = PrivateKeyDer::from_pem_slice(&read_pem("--key", key)?);
                let pem = pem.map_err(|_| format!("--key {key:?} holds no private key in PEM without a passphrase"))?;
                let known = provider.key_provider.load_private_key(pem);
                let known = known.map_err(|_| {
                    format!(
                        "--key {key:?} is of a kind that reberth does not support: use RSA, P-256, P-384 or Ed25519"
                    )
                })?;
                let identity = CertifiedKey::new(chain, known);
                // If the library cannot compare them, the server will.
                if let Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = identity.keys_match() {
                    return Err(format!("--key {key:?} is not the key of the first certificate in --cert {cert:?}"));
                }
                Some(Arc::new(identity))
            }
        };
        Ok(Self { identity, requested: AtomicBool::new(false) })
    }
}

impl ResolvesClientCert for Client {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// The CAs of a bundle or of the system's store, and the certificates of the bundle themselves.
#[derive(Debug)]
struct Trusted {
    authorities: Arc<WebPkiServerVerifier>,
    /// The certificates of `--ca`: a self-signed server certificate is no CA, yet the user trusts it.
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trusted {
    fn load(ca: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let named = match ca {
            Some(path) => read_bundle("--ca", path)?,
            None => Vec::new(),
        };
        if ca.is_some() {
            roots.add_parsable_certificates(named.iter().cloned());
        } else {
            // The library reads whatever this variable names, to EOF.
            if std::env::var_os("SSL_CERT_FILE")
                .is_some_and(|path| Path::new(&path).exists() && !Path::new(&path).is_file())
            {
                return Err(
                    "SSL_CERT_FILE does not name a regular file; name a PEM bundle with --ca, or use --insecure"
                        .to_owned(),
                );
            }
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(match ca {
                Some(path) => format!("--ca {path:?} holds no certificate that can be used"),
                None => {
                    "this image has no store of trusted certificates; name a PEM bundle with --ca, or use --insecure"
                        .into()
                }
            });
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { authorities, named, provider })
    }
}

/// Some twenty times the size of a distribution's whole store. Bytes.
const LARGEST_BUNDLE: u64 = 4 * 1024 * 1024;

fn read_bundle(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(&read_pem(flag, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{flag} {path:?} is not a PEM bundle: {error}"))
}

fn read_pem(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{flag} {path:?}: {}", crate::error::words(&error));
    // Opening a FIFO would wait for its writer, and a device may have no end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{flag} {path:?} is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST_BUNDLE).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError as Bad;
        let verified = self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(Error::InvalidCertificate(
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
            ))
            | Ok(_) => verified,
            Err(_) if self.named.iter().any(|named| named.as_ref() == end_entity.as_ref()) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            Err(_) => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `--insecure`: accepts any certificate.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    /// The kubelet verifies nothing, not even signatures. An outdated certificate does not make an app unhealthy here.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Every key type that a server may have: nothing is verified, so none has to be supported.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as Scheme;
        vec![
            Scheme::ECDSA_NISTP256_SHA256,
            Scheme::ECDSA_NISTP384_SHA384,
            Scheme::ECDSA_NISTP521_SHA512,
            Scheme::ED25519,
            Scheme::ED448,
            Scheme::RSA_PSS_SHA256,
            Scheme::RSA_PSS_SHA384,
            Scheme::RSA_PSS_SHA512,
            // The same for keys that are restricted to PSS (RFC 8446, 4.2.3).
            Scheme::Unknown(0x0809),
            Scheme::Unknown(0x080a),
            Scheme::Unknown(0x080b),
            Scheme::RSA_PKCS1_SHA256,
            Scheme::RSA_PKCS1_SHA384,
            Scheme::RSA_PKCS1_SHA512,
            Scheme::ECDSA_SHA1_Legacy,
            Scheme::RSA_PKCS1_SHA1,
        ]
    }
}
