//! Owns TLS over a wire, and whom it trusts. Must not know HTTP; nothing of it runs for a plain probe.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::poll::PollFlags;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};

use super::clock::Clock;
use super::shown_duration;
use super::wire::{Broken, Wire};
use crate::config::Healthcheck;

/// A TLS connection.
pub struct Session {
    wire: Wire,
    tls: ClientConnection,
    /// The server has said something.
    heard: bool,
}

impl Session {
    /// Shakes hands with `host` over `wire`.
    ///
    /// # Errors
    /// Why there is no trust or no TLS, in words, with the option that helps.
    pub fn start(wire: Wire, host: &str, terms: &Healthcheck, clock: Clock) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if terms.insecure {
            Arc::new(Anyone { provider: Arc::clone(&provider) })
        } else {
            Arc::new(Trusted::load(terms.ca.as_deref(), Arc::clone(&provider))?)
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name a certificate can have"))?;
        let tls = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
        let mut session = Self { wire, tls, heard: false };
        while session.tls.is_handshaking() {
            let heard = session.heard;
            session.turn(clock).map_err(|broken| match broken {
                Broken::Timeout => {
                    let hint = if heard { "" } else { ": the server said nothing; ask http:// if it speaks no TLS" };
                    format!("timed out after {} during the TLS handshake{hint}", shown_duration(clock.total()))
                }
                Broken::Error(why) => format!("TLS: {why}"),
            })?;
        }
        Ok(session)
    }

    pub fn send(&mut self, bytes: &[u8], clock: Clock) -> Result<(), Broken> {
        self.tls.writer().write_all(bytes)?;
        self.flush(clock)
    }

    pub fn receive(&mut self, buffer: &mut [u8], clock: Clock) -> Result<usize, Broken> {
        loop {
            match self.tls.reader().read(buffer) {
                Ok(size) => return Ok(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.turn(clock)?,
                // An end without close_notify; whether the answer was whole is HTTP's to say.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what TLS has to say and takes in what the server says, once.
    fn turn(&mut self, clock: Clock) -> Result<(), Broken> {
        self.flush(clock)?;
        if !self.tls.wants_read() {
            return Ok(());
        }
        self.wire.wait(PollFlags::POLLIN, clock)?;
        match self.tls.read_tls(self.wire.socket()) {
            Ok(0) if self.tls.is_handshaking() => {
                return Err(Broken::Error("the server closed the connection during the handshake".to_owned()));
            }
            Ok(_) => self.heard = true,
            Err(error) if retry(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = self.tls.process_new_packets() {
            // The alert tells the server why; whether it gets through is all the same.
            let _ = self.tls.write_tls(self.wire.socket());
            return Err(Broken::Error(words(&error)));
        }
        Ok(())
    }

    fn flush(&mut self, clock: Clock) -> Result<(), Broken> {
        while self.tls.wants_write() {
            match self.tls.write_tls(self.wire.socket()) {
                Ok(_) => {}
                Err(error) if retry(&error) => self.wire.wait(PollFlags::POLLOUT, clock)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A close that TLS servers do not log as an attack; it goes out at once or not at all.
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(self.wire.socket());
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A bundle or the system's store: its authorities, and its certificates as they are.
#[derive(Debug)]
struct Trusted {
    authorities: Arc<WebPkiServerVerifier>,
    /// Those of `--ca`: a self-signed server certificate is no authority, and the user named it all the same.
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trusted {
    fn load(ca: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let named = match ca {
            Some(path) => read_bundle(path)?,
            None => Vec::new(),
        };
        if ca.is_some() {
            roots.add_parsable_certificates(named.iter().cloned());
        } else {
            // It reads whatever this variable names, to its end.
            if std::env::var_os("SSL_CERT_FILE")
                .is_some_and(|path| Path::new(&path).exists() && !Path::new(&path).is_file())
            {
                return Err(
                    "SSL_CERT_FILE names no regular file; name a PEM bundle with --ca, or use --insecure".to_owned()
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

/// Some twenty times what a distribution's whole store has. Bytes.
const LARGEST_BUNDLE: u64 = 4 * 1024 * 1024;

fn read_bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: std::io::Error| format!("--ca {path:?}: {}", crate::error::words(&error));
    // Opening a pipe would wait for its writer, and a device may have no end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("--ca {path:?} is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST_BUNDLE).read_to_end(&mut text).map_err(failed)?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("--ca {path:?} is not a PEM bundle: {error}"))
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

/// `--insecure`: whoever answers.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
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

    /// kubelet checks nothing, signatures included; a certificate of an old form is no reason to call an app unhealthy here.
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

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut all = self.provider.signature_verification_algorithms.supported_schemes();
        // Nothing is verified, so every kind of key will do that a server may have.
        all.extend([
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ECDSA_SHA1_Legacy,
        ]);
        all
    }
}

const UNKNOWN: &str = "nobody we trust has signed the certificate; name its PEM with --ca, or use --insecure";

/// What went wrong, and the option that helps.
fn words(error: &Error) -> String {
    use CertificateError as Bad;
    match error {
        Error::InvalidMessage(_) => "the server does not speak TLS here; ask http://".to_owned(),
        Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => {
                UNKNOWN.to_owned()
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "the certificate has expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "the certificate is not valid yet".to_owned(),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the certificate is for another name, or has none (a subjectAltName, openssl -addext); ask by a name it has, or use --insecure"
                    .to_owned()
            }
            // What `openssl req -x509` makes by itself: signed by itself, and marked as an authority.
            bad if bad.to_string().contains("CaUsedAsEndEntity") => UNKNOWN.to_owned(),
            bad if bad.to_string().contains("UnsupportedCertVersion") => {
                "the certificate is of version 1, which TLS libraries no longer take; make one with extensions (openssl -addext), or use \
                 --insecure"
                    .to_owned()
            }
            bad if bad.to_string().contains("UnsupportedSignatureAlgorithm") => UNKNOWN.to_owned(),
            _ => "the certificate is not accepted; name its PEM with --ca, or use --insecure".to_owned(),
        },
        Error::AlertReceived(alert) => alerted(*alert),
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => OLD_VERSION.to_owned(),
        Error::PeerIncompatible(_) => NOTHING_IN_COMMON.to_owned(),
        other => other.to_string(),
    }
}

const NOTHING_IN_COMMON: &str = "the server and reberth have no cipher suite, curve or key type in common; reberth takes TLS 1.3, and 1.2 with \
     ECDHE and AES-GCM or ChaCha20, over X25519, P-256 or P-384, and keys of RSA, P-256, P-384 or Ed25519 (with --insecure of any kind): use \
     another certificate or cipher there, or probe with tcp://";
const OLD_VERSION: &str = "the server offers no TLS version that reberth speaks, which are 1.2 and 1.3: enable 1.2 there, or probe with tcp://";

/// What the server's alert means (RFC 8446, 6.2), and what to do.
fn alerted(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity | AlertDescription::IllegalParameter => {
            NOTHING_IN_COMMON.to_owned()
        }
        AlertDescription::ProtocolVersion => OLD_VERSION.to_owned(),
        AlertDescription::NoApplicationProtocol => "the server speaks no http/1.1 here (ALPN), only another protocol such as h2: enable \
             http/1.1 there, or probe with grpc:// or tcp://"
            .to_owned(),
        AlertDescription::CertificateRequired | AlertDescription::BadCertificate | AlertDescription::AccessDenied => {
            "the server wants a client certificate, and reberth has shown none: ask a port that wants none, or probe with tcp://".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "the server knows no site of this name (SNI): ask by a name it serves".to_owned()
        }
        AlertDescription::InternalError => "the server failed during TLS (alert internal_error): see its log".to_owned(),
        other => format!("the server broke TLS off with the alert {other:?}: see its log"),
    }
}
