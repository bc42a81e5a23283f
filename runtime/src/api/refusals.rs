//! What every operation may answer beside what it is for, as the description says it: the one shape of errors, for any status
//! of 4xx and 5xx.

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

const SCHEMA: &str = "Error";
const REFUSED: [(&str, &str); 2] = [
    ("4XX", "Refused, with the field and the limit"),
    ("5XX", "The node could not"),
];

/// Adds them to all that is described.
pub(super) fn described(mut api: OpenApi) -> OpenApi {
    for item in api.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
        ];
        operations.into_iter().flatten().for_each(refused);
    }
    let components = api.components.get_or_insert_default();
    let schema = ObjectBuilder::new()
        .property("error", detail())
        .required("error");
    components
        .schemas
        .insert(SCHEMA.to_owned(), schema.build().into());
    api
}

fn refused(operation: &mut Operation) {
    for (status, what) in REFUSED {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(SCHEMA)))
            .build();
        let response = ResponseBuilder::new()
            .description(what)
            .content("application/json", content);
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_owned(), RefOr::T(response.build()));
    }
}

/// As OpenAI has it: all four, whether they say something or not.
fn detail() -> ObjectBuilder {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let text_or_null =
        || ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
    ObjectBuilder::new()
        .property("message", text())
        .property("type", text())
        .property("param", text_or_null())
        .property("code", text_or_null())
        .required("message")
        .required("type")
        .required("param")
        .required("code")
}
