//! Typed arrays as they cross the port: sizes, an element type, and bytes in row-major order, little endian.
//!
//! A tensor is made from bytes that are already in memory and shared without a copy. Backends look at the same bytes as
//! typed elements, so a run copies nothing on the way in (unless the allocator left the bytes badly aligned) and once on
//! the way out.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::InferenceError;

// `elements` reads the bytes in native order, and wasm memory is little endian.
const _: () = assert!(cfg!(target_endian = "little"), "tensors are little endian");

/// Most bytes of one tensor: far above what one picture or text needs, and below what would take a host down by itself.
pub const MAX_TENSOR_BYTES: usize = 1 << 30;

/// Most dimensions of a tensor. Models in use have up to six; ONNX Runtime and rten keep small shapes on the stack.
pub const MAX_RANK: usize = 16;

/// Element types of `wasi:nn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 half, 2 bytes.
    F16,
    /// IEEE 754 single, 4 bytes.
    F32,
    /// IEEE 754 double, 8 bytes.
    F64,
    /// Brain float, 2 bytes.
    BF16,
    /// Unsigned byte. Also carries booleans, as 0 and 1.
    U8,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 8 bytes.
    I64,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "fp16",
            Self::F32 => "fp32",
            Self::F64 => "fp64",
            Self::BF16 => "bf16",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// An immutable array whose length agrees with its sizes. A clone shares the bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dims: Arc<[u32]>,
    ty: ElementType,
    data: Arc<Vec<u8>>,
}

impl Tensor {
    /// Checks that `data` is as long as `dims` and `ty` say. Empty `dims` make a scalar; a size of 0 makes an empty tensor.
    ///
    /// Fails with `TooLarge` over [`MAX_TENSOR_BYTES`] or [`MAX_RANK`], else with `InvalidArgument`.
    pub fn new(dims: Vec<u32>, ty: ElementType, data: Vec<u8>) -> Result<Self, InferenceError> {
        if dims.len() > MAX_RANK {
            return Err(InferenceError::TooLarge(format!("a tensor of {} dimensions; at most {MAX_RANK} are taken", dims.len())));
        }
        let expected = byte_length(&dims, ty).filter(|bytes| *bytes <= MAX_TENSOR_BYTES).ok_or_else(|| {
            InferenceError::TooLarge(format!("a tensor of shape {dims:?} and type {ty} exceeds {MAX_TENSOR_BYTES} bytes"))
        })?;
        if data.len() != expected {
            return Err(InferenceError::InvalidArgument(format!(
                "a tensor of shape {dims:?} and type {ty} has {expected} bytes, but {} were given",
                data.len()
            )));
        }
        Ok(Self { dims: dims.into(), ty, data: Arc::new(data) })
    }

    /// Makes a tensor from typed elements, with one copy.
    pub(super) fn from_elements<T: Pod>(dims: Vec<u32>, ty: ElementType, elements: &[T]) -> Result<Self, InferenceError> {
        Self::new(dims, ty, bytemuck::cast_slice(elements).to_vec())
    }

    /// Sizes, outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims
    }

    /// Type of the elements.
    pub fn ty(&self) -> ElementType {
        self.ty
    }

    /// The bytes: row-major, little endian.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Number of elements.
    pub fn element_count(&self) -> usize {
        self.data.len() / self.ty.size()
    }

    /// The bytes as elements of `T`, whose size must be that of the element type. Borrowed when the bytes are aligned, as
    /// they are with the usual allocators.
    pub(super) fn elements<T: Pod>(&self) -> Result<Cow<'_, [T]>, InferenceError> {
        if size_of::<T>() != self.ty.size() {
            return Err(InferenceError::Runtime(format!("elements of type {} read as {} bytes each", self.ty, size_of::<T>())));
        }
        Ok(match bytemuck::try_cast_slice(&self.data) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(&self.data)),
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?}, {} bytes)", self.ty, self.dims, self.data.len())
    }
}

/// Bytes of a tensor of these sizes; none when the number does not fit.
pub(super) fn byte_length(dims: &[u32], ty: ElementType) -> Option<usize> {
    dims.iter().try_fold(ty.size(), |bytes, dim| bytes.checked_mul(usize::try_from(*dim).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ElementType; 7] =
        [ElementType::F16, ElementType::F32, ElementType::F64, ElementType::BF16, ElementType::U8, ElementType::I32, ElementType::I64];

    #[test]
    fn every_type_takes_exactly_its_length() {
        for ty in ALL {
            let bytes = 2 * 3 * ty.size();
            let tensor = Tensor::new(vec![2, 3], ty, vec![7; bytes]).unwrap();
            assert_eq!((tensor.dims(), tensor.ty(), tensor.data().len()), ([2, 3].as_slice(), ty, bytes));
            assert_eq!(tensor.element_count(), 6);
            for wrong in [0, bytes - 1, bytes + 1, bytes * 2] {
                let error = Tensor::new(vec![2, 3], ty, vec![0; wrong]).unwrap_err();
                assert!(matches!(error, InferenceError::InvalidArgument(_)), "{ty} {wrong}: {error}");
            }
        }
    }

    #[test]
    fn scalars_and_empty_tensors_are_tensors() {
        assert_eq!(Tensor::new(vec![], ElementType::I64, vec![0; 8]).unwrap().element_count(), 1);
        assert_eq!(Tensor::new(vec![4, 0, 9], ElementType::F32, vec![]).unwrap().element_count(), 0);
    }

    #[test]
    fn sizes_that_overflow_are_refused_without_allocating() {
        for dims in [vec![u32::MAX; 3], vec![1 << 31, 1 << 31, 4], vec![u32::MAX; MAX_RANK], vec![MAX_TENSOR_BYTES as u32, 2]] {
            let error = Tensor::new(dims.clone(), ElementType::F64, vec![]).unwrap_err();
            assert!(matches!(error, InferenceError::TooLarge(_)), "{dims:?}: {error}");
        }
        // A zero among huge sizes must not hide the overflow or be refused by accident: 2^64 * 0 overflows on the way.
        assert!(matches!(Tensor::new(vec![u32::MAX, u32::MAX, u32::MAX, 0], ElementType::F64, vec![]), Err(InferenceError::TooLarge(_))));
        assert!(matches!(Tensor::new(vec![1; MAX_RANK + 1], ElementType::U8, vec![0]), Err(InferenceError::TooLarge(_))));
    }

    #[test]
    fn elements_are_the_same_bytes() {
        let tensor = Tensor::from_elements(vec![3], ElementType::F32, &[1.5_f32, -2.0, f32::MAX]).unwrap();
        assert_eq!(tensor.elements::<f32>().unwrap().as_ref(), [1.5, -2.0, f32::MAX]);
        assert!(tensor.elements::<f64>().is_err());
    }
}
