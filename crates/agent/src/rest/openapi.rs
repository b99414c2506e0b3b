//! `GET /openapi.json`: the table of [`routes`](super::routes) in the words of OpenAPI 3.1, and the schemas of the
//! documents. Written anew for each reader: hardly anybody asks, and it need not be kept.

use serde_json::{Map, Value, json};

use super::routes::{Endpoint, HEALTH, Input, Output, Parameter, ROUTES, Route};
use super::version::VERSION;

const SCHEMAS: &str = include_str!("schemas.json");

/// `password`: requests that change something need basic authentication.
pub fn document(password: bool) -> Value {
    let mut paths = Map::new();
    for (path, passes, parameters) in HEALTH {
        for method in ["get", "head", "options"] {
            let body = if method == "get" { Output::Json("Status") } else { Output::Nothing };
            let operation = json!({
                "operationId": id(method, path),
                "summary": format!("{passes}: 200, else 503"),
                "tags": ["health"],
                "parameters": parameters.iter().map(query).collect::<Vec<_>>(),
                "responses": {"200": answer("It is so", body), "503": answer("It is not so", body)},
            });
            insert(&mut paths, path, method, operation);
        }
    }
    for route in ROUTES {
        insert(&mut paths, route.path, &route.method.to_lowercase(), operation(route, password));
    }
    let mut components = json!({"schemas": serde_json::from_str::<Value>(SCHEMAS).unwrap_or_default()});
    if password {
        components["securitySchemes"] = json!({"basic": {"type": "http", "scheme": "basic"}});
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Surus", "version": VERSION, "description": DESCRIPTION},
        "paths": paths,
        "components": components,
    })
}

const DESCRIPTION: &str = "The REST API of one member of a PostgreSQL cluster. Only the first segment of a path counts. \
                           Every path that is not listed is a health check that does not pass, with code 503. Every \
                           request to read can be made with HEAD and OPTIONS too, which have no body. Health checks \
                           also take tag_NAME=VALUE, which must be the tags of the member. Every other request that is \
                           not listed gets 501.";

fn operation(route: &Route, password: bool) -> Value {
    let changes = matches!(route.endpoint, Endpoint::Change(_));
    let mut responses = Map::new();
    let mut put = |code: u16, text: &str, output| {
        responses.entry(code.to_string()).or_insert_with(|| answer(text, output));
    };
    for (code, text) in route.answers {
        put(*code, text, if *code == 200 || route.output == Output::Nothing { route.output } else { Output::Text });
    }
    if !changes {
        put(200, route.summary, route.output);
    }
    if changes {
        put(403, "Who asks may not", Output::Text);
        if password {
            put(401, "The user name or the password is not right, or missing", Output::Text);
        }
    }
    if route.input != Input::None {
        put(400, "The body cannot be used, and why", Output::Text);
        put(408, "The body did not arrive in time", Output::Text);
        put(413, "The body is larger than 1 MiB", Output::Text);
    }
    if matches!(route.input, Input::Required(_)) {
        put(411, "There is no body", Output::Text);
    }
    let mut operation = json!({
        "operationId": id(&route.method.to_lowercase(), route.path),
        "summary": route.summary,
        "tags": [if changes { "changes" } else { "documents" }],
        "responses": responses,
    });
    let mut parameters: Vec<Value> = route.parameters.iter().map(query).collect();
    if route.path.contains("{id}") {
        parameters
            .push(json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}));
    }
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Input::Optional(schema) | Input::Required(schema) = route.input {
        let required = matches!(route.input, Input::Required(_));
        operation["requestBody"] =
            json!({"required": required, "content": content("application/json", reference(schema))});
    }
    if changes && password {
        operation["security"] = json!([{"basic": []}]);
    }
    operation
}

fn answer(description: &str, output: Output) -> Value {
    let content = match output {
        Output::Nothing => return json!({"description": description}),
        Output::Text => content("text/plain", json!({"type": "string"})),
        Output::Page => content("text/html", json!({"type": "string"})),
        Output::Json(schema) => content("application/json", reference(schema)),
    };
    json!({"description": description, "content": content})
}

fn content(kind: &str, schema: Value) -> Value {
    json!({kind: {"schema": schema}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn query(parameter: &Parameter) -> Value {
    let mut schema = json!({"type": "string"});
    if !parameter.values.is_empty() {
        schema["enum"] = json!(parameter.values);
    }
    json!({"name": parameter.name, "in": "query", "description": parameter.description, "schema": schema})
}

fn id(method: &str, path: &str) -> String {
    let name = if path == "/" { "root" } else { path.trim_matches(['/', '}']) };
    format!("{method}-{}", name.replace("/{", "-").replace(['/', '.'], "-"))
}

fn insert(paths: &mut Map<String, Value>, path: &str, method: &str, operation: Value) {
    paths.entry(path.to_owned()).or_insert_with(|| json!({}))[method] = operation;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::Method;

    use super::super::routes::{Read, change_of, read};
    use super::*;

    #[test]
    fn what_is_documented_is_what_answers() {
        for (path, ..) in HEALTH {
            assert_eq!(read(path), Read::Health, "{path}");
        }
        for route in ROUTES {
            let method: Method = route.method.parse().unwrap();
            match route.endpoint {
                Endpoint::Read(found) => assert_eq!(read(route.path), found, "{}", route.path),
                Endpoint::Change(change) => assert_eq!(change_of(&method, route.path), Some(change), "{}", route.path),
            }
        }
    }

    #[test]
    fn the_document_is_whole() {
        for password in [false, true] {
            let document = document(password);
            let schemas = document["components"]["schemas"].as_object().expect("schemas.json is JSON");
            let (mut ids, mut used) = (BTreeSet::new(), BTreeSet::new());
            for (path, operations) in document["paths"].as_object().unwrap() {
                for (method, operation) in operations.as_object().unwrap() {
                    let id = operation["operationId"].as_str().unwrap();
                    assert!(ids.insert(id.to_owned()), "{id} is there twice");
                    assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
                    let closed = !operation["security"].is_null();
                    assert_eq!(closed, password && operation["tags"][0] == "changes", "{method} {path}");
                    references(operation, &mut used);
                }
            }
            references(&document["components"], &mut used);
            let known: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
            assert_eq!(used, known, "every schema is used, and every one used is there");
        }
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(name)) => {
                    found.insert(name.clone());
                }
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
}
