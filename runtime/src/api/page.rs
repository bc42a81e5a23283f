//! Lists in pages, as OpenAI has them: `limit`, `after`, `first_id`, `last_id`, `has_more`.

use super::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Cursor {
    /// Objects of the page, 1 to 100. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// Id of the object after which the page begins.
    after: Option<String>,
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// `list`.
    object: &'static str,
    data: Vec<T>,
    /// Id of the first object of the page.
    first_id: Option<String>,
    /// Id of the last: `after` of the next page.
    last_id: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

impl Cursor {
    /// The page of `all`, whose order must be the same at each call.
    pub(super) fn page<T>(
        self,
        all: Vec<T>,
        id: impl Fn(&T) -> String,
    ) -> Result<Page<T>, ApiError> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(ApiError::Invalid {
                param: "limit",
                why: format!("must be 1 to {LIMIT_MAX}, got {limit}"),
            });
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => {
                let at = all.iter().position(|object| id(object) == *after);
                at.ok_or_else(|| ApiError::Invalid {
                    param: "after",
                    why: format!("no object has the id {after:?}"),
                })? + 1
            }
        };
        let has_more = all.len() > begin + limit;
        let data: Vec<T> = all.into_iter().skip(begin).take(limit).collect();
        Ok(Page {
            object: "list",
            first_id: data.first().map(&id),
            last_id: data.last().map(&id),
            has_more,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: Option<usize>, after: Option<&str>) -> Result<Page<u32>, ApiError> {
        let after = after.map(str::to_owned);
        Cursor { limit, after }.page((1..=45).collect(), u32::to_string)
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let first = page(None, None).unwrap();
        assert_eq!(first.data, (1..=20).collect::<Vec<_>>());
        assert!(first.has_more);
        let second = page(None, first.last_id.as_deref()).unwrap();
        let third = page(None, second.last_id.as_deref()).unwrap();
        assert_eq!((second.data[0], third.data.len()), (21, 5));
        assert_eq!(
            (third.first_id.as_deref(), third.has_more),
            (Some("41"), false)
        );
        let none = page(None, Some("45")).unwrap();
        assert_eq!(
            (none.data.len(), none.last_id, none.has_more),
            (0, None, false)
        );
    }

    #[test]
    fn a_limit_and_a_cursor_are_checked() {
        for (limit, fits) in [(0, false), (1, true), (100, true), (101, false)] {
            assert_eq!(page(Some(limit), None).is_ok(), fits, "{limit}");
        }
        assert!(page(None, Some("46")).is_err());
    }
}
