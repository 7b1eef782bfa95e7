// AdamW over the flat buffers of all parameters in one launch.

// sum_squares: part[block] = Σ g² of 4096 elements, in double.
KERNEL sum_squares(const float *g, i64 n, double *part) {
  __shared__ double sh[256];
  i64 lo = (i64)blockIdx.x * 4096, hi = lo + 4096 < n ? lo + 4096 : n;
  double s = 0;
  for (i64 i = lo + threadIdx.x; i < hi; i += 256) s += (double)g[i] * g[i];
  s = block_sum(s, sh);
  if (threadIdx.x == 0) part[blockIdx.x] = s;
}

// norm_of: norm = sqrt(Σ part), one block.
KERNEL norm_of(const double *part, int n, double *norm) {
  __shared__ double sh[256];
  double s = 0;
  for (int i = threadIdx.x; i < n; i += 256) s += part[i];
  s = block_sum(s, sh);
  if (threadIdx.x == 0) *norm = sqrt(s);
}

struct Piece {
  int lo, n;  // elements of one parameter
  float lr_scale;
  int no_decay;
};

struct AdamArgs {
  float *w, *g, *m, *v;
  const Piece *pieces;
  const double *norm;
  float lr, beta1, beta2, eps, decay, clip, bias1, bias2;
};

// adamw clears the gradients; where their norm is not finite, it does only that.
KERNEL adamw(AdamArgs a) {
  Piece p = a.pieces[blockIdx.x];
  double norm = *a.norm;
  bool finite = norm - norm == 0;
  float scale = a.clip > 0 && norm > a.clip ? (float)(a.clip / (norm + 1e-6)) : 1.f;
  float lr = a.lr * p.lr_scale, decay = p.no_decay ? 0.f : a.decay;
  for (int e = threadIdx.x; e < p.n; e += blockDim.x) {
    int i = p.lo + e;
    if (finite) {
      float g = a.g[i] * scale, w = a.w[i];
      w -= lr * decay * w;
      float m = a.beta1 * a.m[i] + (1.f - a.beta1) * g, v = a.beta2 * a.v[i] + (1.f - a.beta2) * g * g;
      a.m[i] = m;
      a.v[i] = v;
      a.w[i] = w - lr * (m / a.bias1) / (sqrtf(v / a.bias2) + a.eps);
    }
    a.g[i] = 0.f;
  }
}
