// Layer norm and RMS norm: a warp per row.

struct NormArgs {
  Mat x, stats, dy, c, y;  // y is dx in the backward pass
  const float *gamma, *beta;
  float eps;
  int rms;
};

KERNEL norm_rows(const Head *h, NormArgs a) {
  int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, n = a.y.cols;
  if (row >= count(h, a.y.rows)) return;
  float mean = 0;
  if (!a.rms) {
    for (int j = lane; j < n; j += 32) mean += at(a.x, row, j);
    mean = warp_sum(mean) / (float)n;
  }
  float q = 0;
  for (int j = lane; j < n; j += 32) {
    float d = at(a.x, row, j) - mean;
    q += d * d;
  }
  float inv = 1.f / sqrtf(warp_sum(q) / (float)n + a.eps);
  for (int j = lane; j < n; j += 32) {
    float v = (at(a.x, row, j) - mean) * inv;
    if (a.gamma) v *= a.gamma[j];
    if (a.beta) v += a.beta[j];
    set(a.y, row, j, v);
  }
  if (a.stats.p && lane == 0) {
    set(a.stats, row, 0, mean);
    set(a.stats, row, 1, inv);
  }
}

// norm_rows_grad: with z = (x-μ)·inv and g = dy·γ, dx = inv·(g - mean(g) - z·mean(g·z)) + c,
// without the first mean for RMS.
KERNEL norm_rows_grad(const Head *h, NormArgs a) {
  int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, n = a.y.cols;
  if (row >= count(h, a.y.rows)) return;
  float mean = at(a.stats, row, 0), inv = at(a.stats, row, 1), sum = 0, dot = 0;
  for (int j = lane; j < n; j += 32) {
    float g = at(a.dy, row, j) * (a.gamma ? a.gamma[j] : 1.f);
    sum += g;
    dot += g * (at(a.x, row, j) - mean) * inv;
  }
  sum = a.rms ? 0.f : warp_sum(sum) / (float)n;
  dot = warp_sum(dot) / (float)n;
  for (int j = lane; j < n; j += 32) {
    float g = at(a.dy, row, j) * (a.gamma ? a.gamma[j] : 1.f), z = (at(a.x, row, j) - mean) * inv;
    set(a.y, row, j, inv * (g - sum - z * dot) + at_or_0(a.c, row, j));
  }
}
