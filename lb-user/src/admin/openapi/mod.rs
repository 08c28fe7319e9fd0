//! The API's description: OpenAPI 3.1, from the table of operations and the table of documents.
//!
//! Tests hold it against the routes and against documents as they are written.
//!
//! Must not know: requests, who asks.

mod schemas;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::admin::operations::{Kind, OPERATIONS, Operation, Parameter};
use schemas::{Field, SCHEMAS};

/// The document, in JSON.
pub(super) static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Only maps with keys that are no strings fail.
    let mut text = serde_json::to_vec_pretty(&description()).unwrap_or_default();
    text.push(b'\n');
    text
});

fn description() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let method = if operation.changes { "post" } else { "get" };
        paths.insert(format!("/{}", operation.name), json!({ method: described(operation) }));
    }
    let schemas: Map<String, Value> = SCHEMAS
        .iter()
        .map(|schema| (schema.name.to_owned(), object(schema.description, schema.fields)))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lb",
            "version": "1",
            "summary": "Status and control of a load balancer's director.",
            "description": "Keys may be added to documents, never renamed or removed. The same \
                operations are on the admin socket, where the socket's permissions decide who may.",
        },
        "servers": [{ "url": "/api/v1" }],
        "security": [{ "basic": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic", "description":
                    "Users of admin.http.users; changes need the role admin." },
            },
            "schemas": schemas,
            "responses": refusals(),
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": in_query(operation),
        "responses": {
            "200": {
                "description": "Done.",
                "content": json_of(operation.document),
            },
        },
    });
    let codes: &[&str] = if operation.changes {
        described["description"] = json!(
            "Needs the role admin, and `content-type: application/json` or a token as \
             `x-csrf-token`. Parameters are in the query or in the body."
        );
        described["requestBody"] = json!({
            "required": false,
            "content": { "application/json": { "schema": in_body(operation.parameters) } },
        });
        &["400", "401", "403", "404", "405", "408", "413", "415", "422", "429", "500", "503", "504"]
    } else {
        &["400", "401", "404", "405", "429", "500", "503", "504"]
    };
    for code in codes {
        described["responses"][*code] = json!({ "$ref": format!("#/components/responses/{code}") });
    }
    described
}

fn in_query(operation: &Operation) -> Vec<Value> {
    let described = |parameter: &Parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            // A change may have it in its body instead.
            "required": parameter.required && !operation.changes,
            "description": parameter.description,
            "schema": value(parameter),
        })
    };
    operation.parameters.iter().map(described).collect()
}

fn in_body(parameters: &[Parameter]) -> Value {
    let properties: Map<String, Value> = parameters
        .iter()
        .map(|parameter| {
            let mut value = value(parameter);
            value["description"] = json!(parameter.description);
            (parameter.name.to_owned(), value)
        })
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn value(parameter: &Parameter) -> Value {
    match parameter.kind {
        Kind::Text => json!({ "type": "string", "examples": [parameter.example] }),
        Kind::Flag => json!({ "type": "boolean", "default": false }),
        Kind::Number => {
            let example = parameter.example.parse::<u64>().unwrap_or(0);
            json!({ "type": "integer", "minimum": 0, "examples": [example] })
        }
    }
}

fn object(description: &str, fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, kind, description)| {
            let mut schema = schema(kind);
            schema["description"] = json!(description);
            ((*name).to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "description": description, "properties": properties })
}

/// `text`, `count`, `number`, `flag`, `any`, a schema's name; `[x]` is a list, `{x}` a map by name,
/// `x?` may be null.
fn schema(kind: &str) -> Value {
    let inside = |open, close| kind.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    if let Some(item) = inside('[', ']') {
        return json!({ "type": "array", "items": schema(item) });
    }
    if let Some(item) = inside('{', '}') {
        return json!({ "type": "object", "additionalProperties": schema(item) });
    }
    if let Some(item) = kind.strip_suffix('?') {
        return json!({ "anyOf": [schema(item), { "type": "null" }] });
    }
    match kind {
        "text" => json!({ "type": "string" }),
        "count" => json!({ "type": "integer", "minimum": 0 }),
        "number" => json!({ "type": "number" }),
        "flag" => json!({ "type": "boolean" }),
        "any" => json!({}),
        name => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

fn json_of(name: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } })
}

fn refusals() -> Value {
    let mut refusals = Map::new();
    for (code, description) in [
        ("400", "A parameter or the body is wrong."),
        ("401", "No user's name and password, or wrong ones."),
        ("403", "The role is read-only, or the request could be another site's."),
        ("404", "What is named does not exist."),
        ("405", "Another method."),
        ("408", "The body did not come in time."),
        ("413", "The body has more than 64 KiB."),
        ("415", "The body is not application/json."),
        ("422", "The configuration file, or what is asked for, cannot be."),
        ("429", "Too many wrong passwords from this address: wait as `retry-after` says."),
        ("500", "The daemon or its host failed."),
        ("503", "Another change is under way, or the daemon is stopping."),
        ("504", "The controller did not answer in time."),
    ] {
        let refusal = json!({ "description": description, "content": json_of("Error") });
        refusals.insert(code.to_owned(), refusal);
    }
    Value::Object(refusals)
}
