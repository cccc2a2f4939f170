//! Bytes that are no UTF-8, wherever a client or an image may have them: refused with words, or shown as they are.

#![allow(clippy::large_futures, reason = "a test may have a large future")]

use anyhow::{Context as _, Result};
use berth_test::fixture::Fixture;
use berth_test::image::{Built, Layer, digest};
use berth_test::node::container_config;
use berth_test::programs::Programs;
use berth_test::stand_ins;
use proto::v1;
use serde_json::json;
use tonic::Code;

/// What a test's image has where its bytes are to be bad.
const MARK: &[u8] = b"MARK";
const BAD: &[u8] = b"\xff\xfe\x80!";

/// A client that sends what it is given, as it is.
async fn call(fixture: &Fixture, method: &'static str, message: Vec<u8>) -> Result<tonic::Status> {
    let channel = berth_test::node::channel(&fixture.node.socket()).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static(method);
    let codec = RawCodec;
    let answer = client.unary(tonic::Request::new(message), path, codec).await;
    answer.err().context("bad bytes are refused")
}

/// A message's bytes, with bad ones wherever `MARK` is.
fn spoiled(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    let place = bytes.windows(MARK.len()).position(|at| at == MARK).expect("the mark is in it");
    bytes[place..place + MARK.len()].copy_from_slice(BAD);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn a_variable_that_is_no_utf8_is_refused_by_its_place_and_nothing_is_left() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("bytes");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let before = fixture.node.inventory();
    let mut config = container_config("main", &fixture.image, &["sh", "-c", "echo $GOOD; sleep 1000"]);
    let variable = |key: &str, value: &[u8]| v1::KeyValue { key: key.into(), value: value.to_vec() };
    config.envs = vec![variable("GOOD", "grüße \u{1f600}".as_bytes()), variable("BAD", BAD)];
    let refused =
        fixture.client.create(&pod, &config, &pod_config).await.expect_err("bytes that are no text");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let words = refused.message();
    assert!(words.contains("envs[1]") && words.contains("BAD") && words.contains("UTF-8"), "{words}");
    assert_eq!(fixture.node.leaks_since(&before), Vec::<String>::new());

    config.envs.pop();
    let container = fixture.client.create(&pod, &config, &pod_config).await?;
    fixture.client.start(&container).await?;
    assert!(fixture.log_of("bytes", 1).await.contains("grüße \u{1f600}"));
    // What the log and exec carry is bytes, and stays what it is.
    let said = fixture.client.exec(&container, &["printf", r"\377\376\200"], 10).await?;
    assert_eq!(said.stdout, b"\xff\xfe\x80");
    fixture.remove(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn text_of_a_request_that_is_no_utf8_is_refused_and_the_daemon_goes_on() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let pod_config = fixture.pod_config("text");
    let pod = fixture.client.run_pod(&pod_config).await?;
    let request = |change: fn(&mut v1::ContainerConfig)| {
        let mut config = container_config("main", &fixture.image, &["sleep", "1000"]);
        change(&mut config);
        v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(config),
            sandbox_config: Some(pod_config.clone()),
        }
    };
    let places: [fn(&mut v1::ContainerConfig); 5] = [
        |config| config.args.push("MARK".into()),
        |config| drop(config.labels.insert("MARK".into(), "x".into())),
        |config| drop(config.annotations.insert("x".into(), "MARK".into())),
        |config| config.envs.push(v1::KeyValue { key: "MARK".into(), value: b"x".to_vec() }),
        |config| config.working_dir = "/MARK".into(),
    ];
    for place in places {
        let message = spoiled(&request(place));
        let refused = call(&fixture, "/runtime.v1.RuntimeService/CreateContainer", message).await?;
        assert!(refused.message().contains("UTF-8"), "{refused:?}");
    }
    let run = v1::RunPodSandboxRequest {
        config: Some(v1::PodSandboxConfig {
            labels: [("MARK".to_owned(), "x".to_owned())].into(),
            ..fixture.pod_config("other")
        }),
        ..Default::default()
    };
    let refused = call(&fixture, "/runtime.v1.RuntimeService/RunPodSandbox", spoiled(&run)).await?;
    assert!(refused.message().contains("UTF-8"), "{refused:?}");
    let containers = fixture.client.runtime.list_containers(v1::ListContainersRequest::default()).await?;
    assert!(containers.into_inner().items.is_empty());
    fixture.remove(&pod).await
}

/// An image whose configuration has bad bytes where its recipe has the mark. `built` has no index.
fn with_bad_config(mut built: Built) -> Built {
    let old = built
        .blobs
        .iter()
        .find(|(_, blob)| blob.windows(MARK.len()).any(|at| at == MARK) && blob.starts_with(b"{"))
        .map(|(name, _)| name.clone())
        .expect("a configuration with the mark");
    let mut config = built.blobs.remove(&old).expect("it was just found");
    let place = config.windows(MARK.len()).position(|at| at == MARK).expect("the mark is in it");
    config[place..place + MARK.len()].copy_from_slice(BAD);
    let manifest = String::from_utf8(built.top.body).expect("a manifest is text");
    built.top.body = manifest.replace(&old, &digest(&config)).into_bytes();
    built.blobs.insert(digest(&config), config);
    built
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a network namespace: cargo xtask node"]
async fn an_image_whose_configuration_is_no_utf8_is_refused_when_it_is_pulled() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let before = fixture.client.images.list_images(v1::ListImagesRequest::default()).await?.into_inner();
    for (name, config) in [
        ("env", json!({"Env": ["A=MARK"]})),
        ("cmd", json!({"Cmd": ["MARK"]})),
        ("label", json!({"Labels": {"a": "MARK"}})),
        ("volume", json!({"Volumes": {"/MARK": {}}})),
    ] {
        let layer = Layer::new().file("a", 0o644, b"x").finish();
        let built = berth_test::image::Recipe::new(vec![layer], config).build();
        fixture.registry.push(name, &["1"], &with_bad_config(built)).await?;
        let reference = format!("{}/{name}:1", fixture.registry.address());
        let refused = fixture.client.pull(&reference).await.expect_err("no JSON has such bytes");
        assert!(refused.message().contains("JSON") && refused.message().contains("config"), "{refused:?}");
    }
    let after = fixture.client.images.list_images(v1::ListImagesRequest::default()).await?.into_inner();
    assert_eq!(before, after);

    // What JSON may say and no process can be given is left out, or refused by name.
    let config = json!({"Env": ["NUL=a\u{0}b", "GOOD=x", "nothing"], "Cmd": ["a\u{0}b"], "Labels": {"\u{0}": "\u{1f}"}});
    let layer = Layer::new().dir("srv/", 0o755).finish();
    fixture
        .registry
        .push("nul", &["1"], &stand_ins::busybox_with(&Programs::built(), layer, config)?)
        .await?;
    let image = fixture.client.pull(&format!("{}/nul:1", fixture.registry.address())).await?;
    let (pod, _) = fixture.run_with("nul", container_config("main", &image, &["env"])).await?;
    let log = fixture.log_of("nul", 4).await;
    assert!(log.contains("GOOD=x") && !log.contains("NUL"), "{log}");
    fixture.remove(&pod).await?;
    let refused = fixture.run_with("cmd", container_config("main", &image, &[])).await.expect_err("a NUL");
    assert!(format!("{refused:?}").contains("NUL byte"), "{refused:?}");
    Ok(())
}

/// gRPC with bytes for messages.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(into, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        Ok(Some(()))
    }
}
