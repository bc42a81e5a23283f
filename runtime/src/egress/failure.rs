//! The one map from what can go wrong on the way to another server to what its guest is told.

use super::connection::NotConnected;
use super::resolver::Unresolved;
use std::error::Error;
use std::io;
use wasmtime_wasi_http::Error as HttpError;

/// What a guest is told of a request that was not answered.
pub(super) fn told(failure: &(dyn Error + 'static)) -> HttpError {
    // The innermost cause that says something; what is outside of it is only where it happened.
    let causes = std::iter::successors(Some(failure), |cause| inner(*cause));
    let told = causes.filter_map(tell).last();
    told.unwrap_or(HttpError::HttpProtocolError)
}

/// The cause of a cause. What is in an `io::Error` is not among its sources.
fn inner<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let io = cause.downcast_ref::<io::Error>();
    match io.and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => cause.source(),
    }
}

fn tell(cause: &(dyn Error + 'static)) -> Option<HttpError> {
    if let Some(unresolved) = cause.downcast_ref::<Unresolved>() {
        return Some(match unresolved {
            Unresolved::Prohibited => HttpError::DestinationIpProhibited,
            Unresolved::Unknown(_) => HttpError::DnsError {
                rcode: None,
                info_code: None,
            },
        });
    }
    if let Some(not_connected) = cause.downcast_ref::<NotConnected>() {
        return match not_connected {
            NotConnected::Full => Some(HttpError::ConnectionLimitReached),
            NotConnected::Late => Some(HttpError::ConnectionTimeout),
            NotConnected::Failed(_) => None,
        };
    }
    // What the guest itself sent was too much.
    if let Some(HttpError::HttpRequestBodySize(limit)) = cause.downcast_ref() {
        return Some(HttpError::HttpRequestBodySize(*limit));
    }
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(_) => HttpError::TlsCertificateError,
            _ => HttpError::TlsProtocolError,
        });
    }
    if let Some(http) = cause.downcast_ref::<hyper::Error>() {
        return Some(match http {
            http if http.is_incomplete_message() => HttpError::HttpResponseIncomplete,
            http if http.is_closed() || http.is_canceled() => HttpError::ConnectionTerminated,
            _ => HttpError::HttpProtocolError,
        });
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some(HttpError::ConnectionRefused),
        io::ErrorKind::TimedOut => Some(HttpError::ConnectionTimeout),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(HttpError::ConnectionTerminated),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(HttpError::DestinationUnavailable)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_that_says_something_is_told() {
        let io = |kind| io::Error::from(kind);
        let within = |inner: Unresolved| io::Error::other(inner);
        let unknown = Unresolved::Unknown(io(io::ErrorKind::Other));
        let certificate = rustls::CertificateError::Expired;
        let failures: [(Box<dyn Error>, HttpError); 10] = [
            (
                Box::new(NotConnected::Full),
                HttpError::ConnectionLimitReached,
            ),
            (
                Box::new(NotConnected::Failed(Box::new(within(
                    Unresolved::Prohibited,
                )))),
                HttpError::DestinationIpProhibited,
            ),
            (
                Box::new(within(Unresolved::Prohibited)),
                HttpError::DestinationIpProhibited,
            ),
            (
                Box::new(within(unknown)),
                HttpError::DnsError {
                    rcode: None,
                    info_code: None,
                },
            ),
            (
                Box::new(io::Error::other(rustls::Error::InvalidCertificate(
                    certificate,
                ))),
                HttpError::TlsCertificateError,
            ),
            (
                Box::new(rustls::Error::DecryptError),
                HttpError::TlsProtocolError,
            ),
            (
                Box::new(io(io::ErrorKind::ConnectionRefused)),
                HttpError::ConnectionRefused,
            ),
            (
                Box::new(io(io::ErrorKind::BrokenPipe)),
                HttpError::ConnectionTerminated,
            ),
            (
                Box::new(io(io::ErrorKind::HostUnreachable)),
                HttpError::DestinationUnavailable,
            ),
            (
                Box::new(io(io::ErrorKind::OutOfMemory)),
                HttpError::HttpProtocolError,
            ),
        ];
        for (failure, expected) in failures {
            let told = format!("{:?}", told(&*failure));
            assert_eq!(told, format!("{expected:?}"), "{failure:?}");
        }
    }
}
