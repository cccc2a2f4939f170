//! `cri-v1.proto` says what the interface says: every name, number, type and flag of `cri-v1.json`.

use std::collections::BTreeMap;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use proto::v1;
use serde_json::Value;

const PACKAGE: &str = ".runtime.v1.";
/// Messages whose `Debug` is written by hand in `src/redacted.rs`.
const REDACTED: &[&str] = &["AuthConfig"];

/// What one side says, each fact in words, so that a difference reads as a sentence.
type Facts = BTreeMap<String, String>;

fn dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn facts() -> Value {
    let text = std::fs::read_to_string(dir().join("cri-v1.json")).expect("cri-v1.json is there");
    serde_json::from_str(&text).expect("cri-v1.json is JSON")
}

fn descriptor() -> FileDescriptorProto {
    let set = protox::compile(["cri-v1.proto"], [dir()]).expect("cri-v1.proto compiles");
    set.file.into_iter().find(|file| file.package() == "runtime.v1").expect("our package is compiled")
}

/// `debug_redact` is field option 16. The descriptor types of prost do not know it, so it is asked of the text.
fn redacted_in_proto() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir().join("cri-v1.proto")).expect("cri-v1.proto is there");
    let mut message = String::new();
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        if let Some(name) = line.strip_prefix("message ") {
            message = name.trim_end_matches(" {").to_owned();
        }
        if line.contains("debug_redact = true") {
            let field = line.split('=').next().and_then(|head| head.split_whitespace().last());
            found.push((message.clone(), field.expect("an option follows a field").to_owned()));
        }
    }
    found
}

fn strings<'a>(value: &'a Value, what: &str) -> Vec<&'a str> {
    value.as_array().expect(what).iter().filter_map(Value::as_str).collect()
}

fn entries<'a>(value: &'a Value, what: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.as_object().expect(what).iter()
}

fn told_by_json(json: &Value) -> Facts {
    let mut told = Facts::new();
    for (service, calls) in entries(&json["services"], "services") {
        for call in calls.as_array().expect("calls") {
            let [name, asks, answers] = strings(call, "a call")[..] else { panic!("call {call}") };
            told.insert(format!("rpc {service}.{name}"), format!("{asks} -> {answers}"));
        }
    }
    for (message, fields) in entries(&json["messages"], "messages") {
        told.insert(format!("message {message}"), String::new());
        for field in fields.as_array().expect("fields") {
            let flags = field.get(3).map(|flags| strings(flags, "flags").join(",")).unwrap_or_default();
            let name = field[1].as_str().expect("a name");
            let kind = field[2].as_str().expect("a type");
            told.insert(format!("field {message}.{name}"), format!("{} {kind} {flags}", field[0]));
        }
    }
    for (name, values) in entries(&json["enums"], "enums") {
        for (value, number) in entries(values, "values") {
            told.insert(format!("enum {name}.{value}"), number.to_string());
        }
    }
    told
}

fn told_by_descriptor(file: &FileDescriptorProto) -> Facts {
    let mut told = Facts::new();
    for service in &file.service {
        for call in &service.method {
            let stream = |on: bool| if on { "stream " } else { "" };
            let asks = format!("{}{}", stream(call.client_streaming()), short(call.input_type()));
            let answers = format!("{}{}", stream(call.server_streaming()), short(call.output_type()));
            told.insert(format!("rpc {}.{}", service.name(), call.name()), format!("{asks} -> {answers}"));
        }
    }
    for message in &file.message_type {
        tell_message(message, &mut told);
    }
    for one in &file.enum_type {
        tell_enum(one.name(), one, &mut told);
    }
    told
}

fn tell_message(message: &DescriptorProto, told: &mut Facts) {
    let redacted = redacted_in_proto();
    told.insert(format!("message {}", message.name()), String::new());
    for field in &message.field {
        let mut flags = Vec::new();
        if field.options.as_ref().is_some_and(|options| options.deprecated()) {
            flags.push("deprecated");
        }
        if redacted.contains(&(message.name().to_owned(), field.name().to_owned())) {
            flags.push("debug_redact");
        }
        let kind = kind(message, field);
        let value = format!("{} {kind} {}", field.number(), flags.join(","));
        told.insert(format!("field {}.{}", message.name(), field.name()), value);
    }
    for one in &message.enum_type {
        tell_enum(&format!("{}.{}", message.name(), one.name()), one, told);
    }
}

fn tell_enum(name: &str, one: &EnumDescriptorProto, told: &mut Facts) {
    for value in &one.value {
        told.insert(format!("enum {name}.{}", value.name()), value.number().to_string());
    }
}

fn short(type_name: &str) -> &str {
    type_name.strip_prefix(PACKAGE).unwrap_or(type_name)
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        let name = format!("{}.{}", message.name(), nested.name());
        nested.options.as_ref().is_some_and(|options| options.map_entry()) && short(field.type_name()) == name
    });
    if let Some(entry) = entry {
        return format!("map<{},{}>", scalar(&entry.field[0]), scalar(&entry.field[1]));
    }
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    format!("{repeated}{}", scalar(field))
}

fn scalar(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()),
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Double => "double",
        other => other.as_str_name(),
    };
    name.to_owned()
}

#[test]
fn the_definitions_are_the_facts() {
    let (expected, told) = (told_by_json(&facts()), told_by_descriptor(&descriptor()));
    let mut differences = Vec::new();
    for (fact, value) in &expected {
        match told.get(fact) {
            None => differences.push(format!("{fact} is missing")),
            Some(ours) if ours != value => differences.push(format!("{fact} is {ours:?}, not {value:?}")),
            Some(_) => {}
        }
    }
    differences.extend(
        told.keys().filter(|fact| !expected.contains_key(*fact)).map(|f| format!("{f} is ours alone")),
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_whole_interface_is_there() {
    let file = descriptor();
    let calls: usize = file.service.iter().map(|service| service.method.len()).sum();
    assert_eq!((calls, file.message_type.len()), (43, 175));
}

#[test]
fn exactly_the_marked_messages_write_their_own_debug() {
    let json = facts();
    let marked = |fields: &Value| fields.to_string().contains("\"debug_redact\"");
    let messages = entries(&json["messages"], "messages");
    let expected: Vec<&String> =
        messages.filter(|(_, fields)| marked(fields)).map(|(name, _)| name).collect();
    assert_eq!(expected, REDACTED);
    let source = std::fs::read_to_string(dir().join("src/redacted.rs")).expect("src/redacted.rs is there");
    for message in REDACTED {
        assert!(source.contains(&format!("impl fmt::Debug for {message} ")), "{message}");
    }
}

#[test]
fn no_secret_is_ever_printed() {
    let secret = |word: &str| format!("hunter2-{word}");
    let auth = v1::AuthConfig {
        username: "alice".into(),
        password: secret("password"),
        auth: secret("auth"),
        server_address: "registry.example".into(),
        identity_token: secret("identity"),
        registry_token: secret("registry"),
    };
    let request = v1::PullImageRequest { auth: Some(auth), ..Default::default() };
    for printed in [format!("{request:?}"), format!("{request:#?}")] {
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("alice") && printed.contains("registry.example"), "{printed}");
    }
}

#[test]
fn an_environment_value_need_not_be_text() {
    let value: Vec<u8> = v1::KeyValue { key: "K".into(), value: vec![0xff, 0xfe] }.value;
    assert_eq!(value, [0xff, 0xfe]);
}
