//! Signs as cosign does, with keys made on the spot, and attaches signatures as cosign does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image_service::digest::Digest;
use image_service::manifest::Descriptor;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, SanType, SigningKey,
};
use serde_json::{Value, json};

use super::picture::{OCI_INDEX, OCI_MANIFEST, Picture};

pub(crate) const LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
pub(crate) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
pub(crate) const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
pub(crate) const CHAIN: &str = "dev.sigstore.cosign/chain";
pub(crate) const BUNDLE: &str = "dev.sigstore.cosign/bundle";

/// A layer of a manifest of signatures.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    pub(crate) payload: Vec<u8>,
    pub(crate) annotations: BTreeMap<String, String>,
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(crate) fn payload(reference: &str, image: &Digest) -> Vec<u8> {
    let critical = json!({"identity": {"docker-reference": reference}, "image": {"docker-manifest-digest": image},
        "type": "cosign container image signature"});
    serde_json::to_vec(&json!({"critical": critical, "optional": null})).unwrap()
}

impl Signature {
    pub(crate) fn new(key: &KeyPair, reference: &str, image: &Digest) -> Signature {
        Signature::of(key, payload(reference, image))
    }

    pub(crate) fn of(key: &KeyPair, payload: Vec<u8>) -> Signature {
        let signature = BASE64.encode(key.sign(&payload).unwrap());
        Signature { payload, annotations: BTreeMap::from([(SIGNATURE.to_owned(), signature)]) }
    }

    pub(crate) fn annotated(mut self, name: &str, value: impl Into<String>) -> Signature {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// With the promise of a log that it took the signature in, `at` seconds after 1970.
    pub(crate) fn logged(self, log: &KeyPair, signer_pem: &str, at: u64) -> Signature {
        let (signature, payload) = (self.annotations[SIGNATURE].clone(), self.payload.clone());
        self.annotated(BUNDLE, bundle(log, &signature, &payload, signer_pem, at))
    }
}

pub(crate) fn bundle(log: &KeyPair, signature: &str, payload: &[u8], signer_pem: &str, at: u64) -> String {
    let hash = Digest::sha256(payload).hex().to_owned();
    let body = json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": {"hash": {"algorithm": "sha256", "value": hash}},
        "signature": {"content": signature, "publicKey": {"content": BASE64.encode(signer_pem)}}}});
    let body = BASE64.encode(body.to_string());
    let promise = json!({"body": body, "integratedTime": at, "logID": "c0ffee", "logIndex": 7});
    // RFC 8785: serde_json's maps are sorted, and neither spaces nor fractions are there.
    let timestamp = BASE64.encode(log.sign(promise.to_string().as_bytes()).unwrap());
    json!({"SignedEntryTimestamp": timestamp, "Payload": promise}).to_string()
}

/// The manifest under `sha256-<hex>.sig`.
pub(crate) fn tagged(signatures: &[Signature]) -> Picture {
    manifest(signatures, json!({}))
}

/// The index under `sha256-<hex>`, that names a manifest of signatures as referring to the image.
pub(crate) fn referring(signatures: &[Signature]) -> Picture {
    let mut picture = manifest(signatures, json!({"artifactType": ARTIFACT}));
    let (top, size) = (picture.top.clone(), picture.manifests[&picture.top].1.len());
    let entry = json!({"mediaType": OCI_MANIFEST, "digest": top, "size": size, "artifactType": ARTIFACT});
    picture.put(OCI_INDEX, &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}));
    picture
}

fn manifest(signatures: &[Signature], more: Value) -> Picture {
    let mut blobs = BTreeMap::new();
    let mut add = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
        blobs.insert(descriptor.digest.clone(), bytes.to_vec());
        descriptor
    };
    let config = add("application/vnd.oci.image.config.v1+json", b"{}");
    let layer = |signature: &Signature| {
        let mut layer = add(LAYER, &signature.payload);
        layer.annotations = signature.annotations.clone();
        layer
    };
    let layers: Vec<Descriptor> = signatures.iter().map(layer).collect();
    let mut document =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let layer = config.clone();
    let mut picture = Picture { blobs, manifests: BTreeMap::new(), config, layer, top: Digest::sha256(b"") };
    picture.put(OCI_MANIFEST, &document);
    picture
}

fn authority(years: (i32, i32)) -> CertificateParams {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Each has a name of its own, by which the next certificate is found.
    params
        .distinguished_name
        .push(DnType::CommonName, format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params
}

/// Vouches for signers.
pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, key()).unwrap())
    }

    /// A root that ends.
    pub(crate) fn until(years: (i32, i32)) -> Authority {
        Authority(CertifiedIssuer::self_signed(authority(years), key()).unwrap())
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self, years: (i32, i32)) -> Authority {
        Authority(CertifiedIssuer::signed_by(authority(years), key(), &self.0).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The PEM of a certificate for an address, a host, and maybe the issuer of Fulcio's extension.
    pub(crate) fn certify(
        &self,
        key: &KeyPair,
        email: &str,
        issuer: Option<&str>,
        years: (i32, i32),
    ) -> String {
        self.certify_for(key, email, issuer, years, vec![ExtendedKeyUsagePurpose::CodeSigning])
    }

    /// The same for other uses of the key.
    pub(crate) fn certify_for(
        &self,
        key: &KeyPair,
        email: &str,
        issuer: Option<&str>,
        years: (i32, i32),
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> String {
        let mut params = CertificateParams::new(vec!["builder.test".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(email.try_into().unwrap()));
        params.extended_key_usages = usages;
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        if let Some(issuer) = issuer {
            let old = CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 57264, 1, 1],
                issuer.as_bytes().to_vec(),
            );
            let mut text = vec![0x0c, issuer.len() as u8];
            text.extend(issuer.as_bytes());
            let new = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], text);
            params.custom_extensions = vec![old, new];
        }
        params.signed_by(key, &self.0).unwrap().pem()
    }
}
