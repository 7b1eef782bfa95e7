// Losses. Every row's loss is kept in double and added in a fixed order.

struct LossArgs {
  Mat logits, d;    // d: gradient, or absent
  double *losses;   // per row, or null
  int rows, r0, cap, unused;  // logits row i is row r0+i of `rows`; at most cap
};

// cross_entropy: a block per row.
KERNEL cross_entropy(const Head *h, LossArgs a) {
  __shared__ float sh[32];
  int i = blockIdx.x, row = a.r0 + i, n = a.logits.cols;
  if (i >= a.cap || row >= count(h, a.rows)) return;
  int label = h->labels[row];
  if (label < 0) {
    if (a.d.p)
      for (int j = threadIdx.x; j < n; j += blockDim.x) set(a.d, i, j, 0.f);
    if (a.losses && threadIdx.x == 0) a.losses[row] = 0;
    return;
  }
  float most = -INFINITY;
  for (int j = threadIdx.x; j < n; j += blockDim.x) most = fmaxf(most, at(a.logits, i, j));
  most = block_all(most, sh, true);
  float sum = 0;
  for (int j = threadIdx.x; j < n; j += blockDim.x) sum += expf(at(a.logits, i, j) - most);
  sum = block_all(sum, sh, false);
  if (a.losses && threadIdx.x == 0) a.losses[row] = (double)(most - at(a.logits, i, label)) + log((double)sum);
  if (!a.d.p) return;
  __syncthreads();  // d may be the logits themselves
  for (int j = threadIdx.x; j < n; j += blockDim.x) {
    float p = expf(at(a.logits, i, j) - most) / sum;
    set(a.d, i, j, h->loss_scale * (j == label ? p - 1.f : p));
  }
}

// loss_sum: loss = LossScale·Σ losses, one block of 256.
KERNEL loss_sum(const Head *h, const double *losses, int rows, float *loss) {
  __shared__ double sh[256];
  int n = count(h, rows);
  double s = 0;
  for (int i = threadIdx.x; i < n; i += 256) s += losses[i];
  s = block_sum(s, sh);
  if (threadIdx.x == 0) *loss = (float)(h->loss_scale * s);
}

// target_loss is MSE, or with logistic set binary cross-entropy with logits;
// one block of 256.
KERNEL target_loss(const Head *h, Mat x, int logistic, float *loss) {
  __shared__ double sh[256];
  int n = count(h, x.rows) * x.cols;
  double s = 0;
  for (int e = threadIdx.x; e < n; e += 256) {
    double p = at(x, e / x.cols, e % x.cols), t = h->targets[e];
    s += logistic ? (p > 0 ? p : 0) + log1p(exp(-fabs(p))) - p * t : (p - t) * (p - t);
  }
  s = block_sum(s, sh);
  if (threadIdx.x == 0) *loss = (float)(h->loss_scale * s);
}

KERNEL target_grad(const Head *h, Mat x, int logistic, Mat d) {
  EACH(h, d, i, j) {
    float p = at(x, i, j), t = h->targets[i * d.cols + j];
    set(d, i, j, h->loss_scale * (logistic ? sigmoid(p) - t : 2.f * (p - t)));
  }
}
