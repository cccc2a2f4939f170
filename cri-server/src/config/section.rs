//! How a section of the settings is written down once: type, default and explanation together.

/// Makes a struct whose keys each have a default and a text for `berth config default`.
macro_rules! section {
    ($(#[doc = $about:literal])+ pub struct $name:ident { $($(#[doc = $doc:literal])* $key:ident : $type:ty = $default:expr),+ $(,)? }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $doc])* pub $key: $type),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),+ }
            }
        }

        impl $crate::config::Described for $name {
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const KEYS: &'static [(&'static str, &'static [&'static str])] =
                &[$((stringify!($key), &[$($doc),*])),+];
        }
    };
}

pub(crate) use section;
