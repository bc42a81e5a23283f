//! Where a request goes, from its path alone. Pure: no table is asked here, and no name is decoded.

/// Where functions are mounted.
const FUNCTIONS: &str = "/f/";

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// A function, and the path as it sees it (empty or starting with `/`).
    Function {
        /// `project/name`.
        key: &'a str,
        /// What follows.
        rest: &'a str,
    },
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    /// Prometheus.
    Metrics,
    /// Nothing.
    Unknown,
}

/// Finds the route of a path (without its query).
pub(crate) fn route(path: &str) -> Route<'_> {
    if let Some(function) = path.strip_prefix(FUNCTIONS) {
        return split(function).unwrap_or(Route::Unknown);
    }
    match path {
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        _ => Route::Unknown,
    }
}

/// `project/name` and the rest.
fn split(function: &str) -> Option<Route<'_>> {
    let project_end = function.find('/')?;
    let name_start = project_end + 1;
    let name_len = function[name_start..]
        .find('/')
        .unwrap_or(function.len() - name_start);
    if project_end == 0 || name_len == 0 {
        return None;
    }
    let (key, rest) = function.split_at(name_start + name_len);
    Some(Route::Function { key, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_thing() {
        let function = |key, rest| Route::Function { key, rest };
        for (path, expected) in [
            ("/f/acme/hello", function("acme/hello", "")),
            ("/f/acme/hello/", function("acme/hello", "/")),
            ("/f/acme/hello/a/b", function("acme/hello", "/a/b")),
            ("/f/acme/hello//x", function("acme/hello", "//x")),
            ("/f/acme", Route::Unknown),
            ("/f/acme/", Route::Unknown),
            ("/f//hello", Route::Unknown),
            ("/f/", Route::Unknown),
            ("/f", Route::Unknown),
            ("/F/acme/hello", Route::Unknown),
            ("/healthz", Route::Health),
            ("/healthz/", Route::Unknown),
            ("/readyz", Route::Ready),
            ("/metrics", Route::Metrics),
            ("/", Route::Unknown),
            ("", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }
}
