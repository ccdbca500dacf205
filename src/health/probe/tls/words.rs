//! Owns the words for a TLS failure: the cause, and what helps. Must not know how a session works.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// What the session knows besides the error.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    /// A version was agreed, so the peer does speak TLS.
    pub version_known: bool,
    /// The server requested a client certificate.
    pub certificate_requested: bool,
    /// The client has a certificate to present.
    pub certificate_available: bool,
    /// The protocol inside is HTTP/2.
    pub http2: bool,
    /// The host is an address, so no server name (SNI) was sent.
    pub by_address: bool,
}

/// Appended if the server sent nothing during the handshake.
pub const SILENT: &str = ": the server said nothing; use http:// if it does not speak TLS";

const UNKNOWN: &str = "no trusted authority has signed the certificate; name its PEM with --ca, or use --insecure";

const NOTHING_IN_COMMON: &str = "the server and reberth have no cipher suite, curve or key type in common; reberth takes TLS 1.3, and 1.2 with \
     ECDHE and AES-GCM or ChaCha20, over X25519, P-256 or P-384, and keys of RSA, P-256, P-384 or Ed25519 (with --insecure of any kind): use \
     another certificate or cipher there, or probe with tcp://";

const OLD_VERSION: &str = "the server offers no TLS version that reberth speaks, which are 1.2 and 1.3: enable 1.2 there, or probe with tcp://";

const CERTIFICATE_WANTED: &str = "the server requires a client certificate, and reberth has sent none: name one with --cert and --key, use a port that requires none, or probe with tcp://";

const CERTIFICATE_REFUSED: &str = "the server does not accept the client certificate of --cert: see its log; has an authority that it trusts signed it, for clients?";

/// The cause, and what helps.
pub fn words(error: &Error, context: Context) -> String {
    use PeerIncompatible as Unlike;
    let text = match error {
        Error::InvalidMessage(_) if !context.version_known => "the server does not speak TLS here; use http://",
        Error::InvalidMessage(_) | Error::PeerMisbehaved(_) | Error::DecryptError => {
            return format!("the server sent malformed TLS: {error}");
        }
        Error::InvalidCertificate(bad) => certificate(bad),
        Error::AlertReceived(description) => return alert(*description, context),
        Error::PeerIncompatible(
            Unlike::ServerDoesNotSupportTls12Or13
            | Unlike::ServerTlsVersionIsDisabledByOurConfig
            | Unlike::SupportedVersionsExtensionRequired,
        ) => OLD_VERSION,
        Error::PeerIncompatible(_) => NOTHING_IN_COMMON,
        other => return other.to_string(),
    };
    text.to_owned()
}

/// What the server's alert means (RFC 8446, 6.2), and what to do.
fn alert(description: AlertDescription, context: Context) -> String {
    use AlertDescription as Alert;
    let text = match description {
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::UnknownCA
        | Alert::CertificateUnknown
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::UnsupportedCertificate
        | Alert::HandshakeFailure
        | Alert::AccessDenied
        | Alert::DecryptError
            if context.certificate_requested && context.certificate_available =>
        {
            CERTIFICATE_REFUSED
        }
        Alert::CertificateRequired | Alert::BadCertificate => CERTIFICATE_WANTED,
        // Before TLS 1.3, and from many servers since, a missing certificate is reported as one of these.
        Alert::HandshakeFailure | Alert::NoCertificate | Alert::AccessDenied if context.certificate_requested => {
            CERTIFICATE_WANTED
        }
        Alert::HandshakeFailure | Alert::InsufficientSecurity => NOTHING_IN_COMMON,
        Alert::ProtocolVersion => OLD_VERSION,
        Alert::NoApplicationProtocol if context.http2 => {
            "the server does not speak h2 here (ALPN), which gRPC requires: enable HTTP/2 there, or probe with https:// or tcp://"
        }
        Alert::NoApplicationProtocol => {
            "the server does not speak http/1.1 here (ALPN), only another protocol such as h2: enable http/1.1 there, or probe with grpc:// or \
             tcp://"
        }
        Alert::UnrecognisedName if context.by_address => {
            "the server requires a name (SNI), and an address is not one: use https://NAME with a name it serves"
        }
        Alert::UnrecognisedName => "the server has no site of this name (SNI): use a name it serves",
        // Go's servers, Caddy among them, send this to a client without SNI.
        Alert::InternalError if context.by_address => {
            "the server failed during TLS (alert internal_error): see its log; it may require a name (SNI), and an address is not one"
        }
        Alert::InternalError => "the server failed during TLS (alert internal_error): see its log",
        other => return format!("the server aborted TLS with the alert {other:?}: see its log"),
    };
    text.to_owned()
}

fn certificate(bad: &CertificateError) -> &'static str {
    use CertificateError as Bad;
    match bad {
        Bad::UnknownIssuer | Bad::BadSignature => UNKNOWN,
        Bad::Expired | Bad::ExpiredContext { .. } => "the certificate has expired",
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "the certificate is not valid yet",
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "the certificate is for another name, or has none (a subjectAltName, openssl -addext); use a name it has, or --insecure"
        }
        // What `openssl req -x509` creates by default: self-signed, and marked as a CA.
        bad if bad.to_string().contains("CaUsedAsEndEntity") => UNKNOWN,
        bad if bad.to_string().contains("UnsupportedCertVersion") => {
            "the certificate is of version 1, which TLS libraries no longer accept; make one with extensions (openssl -addext), or use --insecure"
        }
        bad if bad.to_string().contains("UnsupportedSignatureAlgorithm") => UNKNOWN,
        _ => "the certificate is not accepted; name its PEM with --ca, or use --insecure",
    }
}
