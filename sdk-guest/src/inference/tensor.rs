//! Typed arrays: sizes, an element type, and bytes, checked against each other once, when they are made.

use super::error::{ErrorCode, InferenceError};
use std::fmt;

/// Element types. Bytes are little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 half, 2 bytes; in Rust its bits, a `u16`.
    F16,
    /// IEEE 754 single, 4 bytes.
    F32,
    /// IEEE 754 double, 8 bytes.
    F64,
    /// Brain float, 2 bytes; in Rust its bits, a `u16`.
    Bf16,
    /// Unsigned byte.
    U8,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 8 bytes.
    I64,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// An array of one element type, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dims: Vec<u32>,
    element: Element,
    data: Vec<u8>,
}

impl Tensor {
    /// Takes sizes (outermost first; none is a scalar), type and bytes. `invalid-argument` where the bytes are not exactly as many
    /// as the sizes ask for.
    pub fn from_bytes(dims: &[u32], element: Element, data: Vec<u8>) -> Result<Self, InferenceError> {
        let expected = dims.iter().try_fold(element.size(), |all, d| all.checked_mul(*d as usize));
        if expected == Some(data.len()) {
            return Ok(Self { dims: dims.to_vec(), element, data });
        }
        let expected = expected.map_or("more than memory holds".to_owned(), |n| n.to_string());
        let text = format!("a tensor {element}{dims:?} takes {expected} bytes, found {}", data.len());
        Err(InferenceError::new(ErrorCode::InvalidArgument, text))
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The bytes, little endian.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.data.len() / self.element.size()
    }

    /// True where one of the sizes is 0.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The bytes, if the elements are of that type.
    fn of(&self, element: Element) -> Result<&[u8], InferenceError> {
        if self.element == element {
            return Ok(&self.data);
        }
        let text = format!("the tensor {}{:?} does not hold {element}", self.element, self.dims);
        Err(InferenceError::new(ErrorCode::InvalidArgument, text))
    }
}

/// A constructor and a getter for one element type, from the way a Rust number takes its bytes.
macro_rules! element_type {
    ($number:ty, $element:ident, $make:ident, $get:ident, $what:literal) => {
        impl Tensor {
            #[doc = concat!("A tensor of ", $what, ". `invalid-argument` where `data` has not as many elements as `dims` asks for.")]
            pub fn $make(dims: &[u32], data: impl AsRef<[$number]>) -> Result<Self, InferenceError> {
                let data = data.as_ref();
                let mut bytes = Vec::with_capacity(std::mem::size_of_val(data));
                for number in data {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                Self::from_bytes(dims, Element::$element, bytes)
            }

            #[doc = concat!("The elements of a tensor of ", $what, "; `invalid-argument` where it holds another type.")]
            pub fn $get(&self) -> Result<Vec<$number>, InferenceError> {
                let (numbers, _) = self.of(Element::$element)?.as_chunks();
                Ok(numbers.iter().map(|bytes| <$number>::from_le_bytes(*bytes)).collect())
            }
        }
    };
}

element_type!(f32, F32, f32, as_f32, "`f32`");
element_type!(f64, F64, f64, as_f64, "`f64`");
element_type!(u16, F16, f16, as_f16, "half floats, given by their bits");
element_type!(u16, Bf16, bf16, as_bf16, "brain floats, given by their bits");
element_type!(u8, U8, u8, as_u8, "`u8`");
element_type!(i32, I32, i32, as_i32, "`i32`");
element_type!(i64, I64, i64, as_i64, "`i64`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_survives_its_bytes() {
        assert_eq!(Tensor::f32(&[2], [1.5, f32::MIN]).unwrap().as_f32().unwrap(), [1.5, f32::MIN]);
        assert_eq!(Tensor::f64(&[2], [1.5, f64::MIN]).unwrap().as_f64().unwrap(), [1.5, f64::MIN]);
        assert_eq!(Tensor::f16(&[1], [0x3c00]).unwrap().as_f16().unwrap(), [0x3c00]);
        assert_eq!(Tensor::bf16(&[1], [0x3f80]).unwrap().as_bf16().unwrap(), [0x3f80]);
        assert_eq!(Tensor::u8(&[2, 1], [1, 255]).unwrap().as_u8().unwrap(), [1, 255]);
        assert_eq!(Tensor::i32(&[1], [-7]).unwrap().as_i32().unwrap(), [-7]);
        assert_eq!(Tensor::i64(&[], [i64::MIN]).unwrap().as_i64().unwrap(), [i64::MIN]);
        assert_eq!(Tensor::i64(&[3, 0], []).unwrap().len(), 0);
    }

    #[test]
    fn sizes_that_disagree_are_refused_with_figures() {
        let error = Tensor::f32(&[2, 2], [0.0; 3]).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert_eq!(error.message, "a tensor f32[2, 2] takes 16 bytes, found 12");
        assert!(Tensor::u8(&[u32::MAX, u32::MAX, u32::MAX], []).unwrap_err().message.contains("more than memory holds"));
        assert!(Tensor::from_bytes(&[1], Element::F64, vec![0; 7]).is_err());
    }

    #[test]
    fn another_type_is_an_error() {
        let tensor = Tensor::f16(&[1], [0]).unwrap();
        assert_eq!(tensor.as_bf16().unwrap_err().message, "the tensor f16[1] does not hold bf16");
    }
}
