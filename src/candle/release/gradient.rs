//! Gradients of weights, by the expressions of candle's own backward pass.

use candle_core::{Result, Tensor};

/// Of a linear weight of shape (out, in), for `x` of shape (.., in) and the gradient of the result, (.., out).
pub(super) fn linear(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let (rank, inner) = (x.rank(), x.dims().last().copied().unwrap_or(1));
    if rank == 2 || x.is_contiguous() {
        let outer = g.dims().last().copied().unwrap_or(1);
        let (x, g) = (x.reshape(((), inner))?, g.reshape(((), outer))?);
        // The transpose of candle's product, so that it lies as the weight does and needs no copy.
        return g.t()?.matmul(&x);
    }
    // candle multiplies each matrix of a batch that does not lie together by the weight.
    let dims: Vec<usize> = (0..rank - 2).collect();
    x.t()?.matmul(g)?.t()?.contiguous()?.sum(dims)
}

/// Of the input of the same.
pub(super) fn linear_input(x: &Tensor, weight: &Tensor, g: &Tensor) -> Result<Tensor> {
    g.reshape(((), weight.dim(0)?))?.matmul(weight)?.reshape(x.dims())
}

/// Of a bias that was added along one dimension of the result.
pub(super) fn bias(g: &Tensor, along: usize) -> Result<Tensor> {
    let others: Vec<usize> = (0..g.rank()).filter(|d| *d != along).collect();
    g.sum(others)
}

/// How a convolution was made.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    pub(super) padding: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) groups: usize,
}

impl Conv {
    /// Of a kernel of a convolution.
    pub(super) fn kernel(self, x: &Tensor, kernel: &Tensor, g: &Tensor) -> Result<Tensor> {
        self.each(&[(x, 1), (kernel, 0), (g, 1)], 0, |parts| {
            let [x, kernel, g] = parts else { candle_core::bail!("a convolution has three tensors") };
            let found = x.transpose(0, 1)?.conv2d(&g.transpose(0, 1)?, self.padding, self.dilation, self.stride, 1)?;
            let (_, _, height, width) = kernel.dims4()?;
            found.transpose(0, 1)?.narrow(2, 0, height)?.narrow(3, 0, width)
        })
    }

    /// Of the input of a convolution.
    pub(super) fn input(self, x: &Tensor, kernel: &Tensor, g: &Tensor) -> Result<Tensor> {
        self.each(&[(x, 1), (kernel, 0), (g, 1)], 1, |parts| {
            let [x, kernel, g] = parts else { candle_core::bail!("a convolution has three tensors") };
            let size = (g.dim(2)? - 1) * self.stride + self.dilation * (kernel.dim(2)? - 1) + 1 - 2 * self.padding;
            g.conv_transpose2d(kernel, self.padding, x.dim(2)? - size, self.stride, self.dilation)
        })
    }

    /// The same for each group of channels, one after the other along a dimension of the result.
    fn each(
        self,
        tensors: &[(&Tensor, usize)],
        along: usize,
        of: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let part = |i: usize| {
            let narrow = |(t, dim): &(&Tensor, usize)| {
                let size = t.dim(*dim)? / self.groups;
                t.narrow(*dim, i * size, size)
            };
            of(&tensors.iter().map(narrow).collect::<Result<Vec<_>>>()?)
        };
        if self.groups == 1 {
            return part(0);
        }
        Tensor::cat(&(0..self.groups).map(part).collect::<Result<Vec<_>>>()?, along)
    }
}
