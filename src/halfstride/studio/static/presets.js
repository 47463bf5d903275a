// The lecture's slides as layers: Sebastian Raschka, STAT 453, L16.3 "Convolutional Autoencoders & Transposed
// Convolutions"; docs/learn goes through them.

const ONES = "1,1,1,1,1,1,1,1,1";

/** Each has a name, the address of its layer, the view that the slide shows, and what is to be seen there. */
export const PRESETS = [
  {
    name: "A convolution: 5×5, kernel 3×3, stride 2 → 2×2",
    address: "form=conv&input_size=5&padding=0&by=outputs",
    view: "emulated",
    look: "The kernel gathers nine inputs into one output, at steps of the stride.",
  },
  {
    name: "2×2, kernel 3×3, stride 1 → 4×4 by scattering",
    address: "input_size=2&stride=1",
    view: "scatter",
    look: "Each input times the kernel is added to the output, one position further for each input.",
  },
  {
    name: "2×2, kernel 3×3, stride 2 → 5×5 by scattering",
    address: "input_size=2",
    view: "scatter",
    look: "With stride 2 the kernels lie two positions apart, and overlap by one.",
  },
  {
    name: "The emulation with zeros and padding",
    address: "input_size=2&by=outputs",
    view: "emulated",
    look: "One zero (stride − 1) between the inputs, two (kernel size − 1) around them, the kernel flipped, and stride 1.",
  },
  {
    name: "The convolution as a matrix, and its transpose",
    address: "form=conv&input_size=4&stride=1&padding=0",
    view: "matrix",
    look: "4 × 16 numbers lead from 4×4 to 2×2; Mᵀ leads back to the size, not to the image.",
  },
  {
    name: "The size formula with padding",
    address: "input_size=2&padding=1&by=outputs",
    view: "emulated",
    look: "Padding makes the output smaller, 3×3: of the two zeros around the input one remains. See Size.",
  },
  {
    name: "The size that a stride forgets: output padding",
    address: "padding=1&output_padding=1&by=outputs",
    view: "emulated",
    look: "The last row and column are computed like all others; they are not zeros.",
  },
  {
    name: "Uneven overlap: kernel 3, stride 2",
    address: `input=${ONES}&kernel=${ONES}`,
    view: "scatter",
    look: "With ones alone the sums are 1, 2 and 4: a checkerboard, made by the geometry. See Coverage.",
  },
  {
    name: "Even overlap: kernel 4, stride 2",
    address: `kernel_size=4&input=${ONES}&kernel=${[ONES, "1,1,1,1,1,1,1"]}`,
    view: "scatter",
    look: "The stride divides the kernel: away from the border all sums are 4.",
  },
  {
    name: "Nearest-neighbour upsampling and convolution",
    address: "form=resize&by=outputs",
    view: "emulated",
    look: "Each input is repeated, then the kernel slides with stride 1: every output sums all taps.",
  },
  {
    name: "Transposed and resize-convolution side by side",
    address: `padding=1&output_padding=1&input=${ONES}&kernel=${ONES}&beside=resize`,
    view: "scatter",
    look: "The same input and kernel of ones: on the left the sums differ by position, on the right all inner ones are 9.",
  },
];
