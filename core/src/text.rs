//! Types that are written as text: in files, on the wire, in JSON.

/// Gives a type that has `FromStr` and `Display` the conversions by which serde writes it as
/// text (`#[serde(try_from = "String", into = "String")]`).
macro_rules! as_text {
    ($($type:ty),+ $(,)?) => {
        $(
            impl TryFrom<String> for $type {
                type Error = <$type as std::str::FromStr>::Err;

                fn try_from(text: String) -> Result<Self, Self::Error> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> String {
                    value.to_string()
                }
            }
        )+
    };
}

pub(crate) use as_text;
