// Attention over packed sequences, forward and backward. Scores exist only in
// tiles of 32 queries by 32 keys (FlashAttention, arXiv 2205.14135, algorithms
// 1 and 4); nothing is added atomically, so results repeat bit for bit. A
// block is 128 threads: four per row of the tile.

struct Attn {
  const float *q, *k, *v, *y, *dy;
  float *out, *lse, *delta, *dq, *dk, *dv;
  int ldq, ldk, ldv, ldy, lddy, ldout, ldlse, lddq, lddk, lddv;
  int heads, kv_heads, hd, causal, window, pick;
  float scale;
  Drop drop;
  int unused;
};

// Span is query rows that stand at positions pos... of a sequence.
struct Span { int row, pos, n, first, len; };

// query_span is tile i of `most` queries, a multiple of 32; false where there is none.
DEVICE bool query_span(const Head *h, const Attn &a, int i, int most, Span &s) {
  if (a.pick == 0) {
    if (i >= h->tiles) return false;
    Tile t = h->tile[i];
    if (t.off % most) return false;
    s = Span{t.first + t.off, t.off, t.len - t.off < most ? t.len - t.off : most, t.first, t.len};
    return true;
  }
  if (i >= h->s) return false;
  int len = h->cu[i + 1] - h->cu[i];
  s = Span{i, a.pick == 1 ? 0 : len - 1, 1, h->cu[i], len};
  return true;
}

// The keys [first_key, last_key) that a query at pos sees.
DEVICE int first_key(const Attn &a, int pos) { return a.window > 0 && pos - a.window + 1 > 0 ? pos - a.window + 1 : 0; }
DEVICE int last_key(const Attn &a, int pos, int len) { return a.causal && pos + 1 < len ? pos + 1 : len; }

// stage copies n rows of a head into shared memory, rows of hd+1 floats, and
// zeros up to 32 rows.
DEVICE void stage(float *dst, const float *src, i64 row, int ld, int col, int n, int hd) {
  for (int e = threadIdx.x; e < 32 * hd; e += 128) {
    int i = e / hd, d = e - i * hd;
    dst[i * (hd + 1) + d] = i < n ? src[(row + i) * ld + col + d] : 0.f;
  }
}

// dots: s[j] = row · rows[8c+j].
DEVICE void dots(float *s, const float *row, const float *rows, int c, int hd) {
#pragma unroll
  for (int j = 0; j < 8; j++) s[j] = 0;
  for (int d = 0; d < hd; d++) {
    float x = row[d];
#pragma unroll
    for (int j = 0; j < 8; j++) s[j] += x * rows[(c * 8 + j) * (hd + 1) + d];
  }
}

// gather: o[j] += Σ_i w[i]·rows[i][c+4j].
template <int HD> DEVICE void gather(float *o, const float *w, const float *rows, int c, int hd) {
  for (int i = 0; i < 32; i++) {
    float x = w[i];
#pragma unroll
    for (int j = 0; j < HD / 4; j++)
      if (c + 4 * j < hd) o[j] += x * rows[i * (hd + 1) + c + 4 * j];
  }
}

DEVICE float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
DEVICE float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

DEVICE u64 element(const Attn &a, int row, int head, int key) { return (((u64)row * a.heads + head) << 20) + (u64)key; }

// keep_keys multiplies p[0..8) by the masks of keys key..key+7 of a row; key is
// a multiple of 8.
DEVICE void keep_keys(const Head *h, const Attn &a, float *p, int row, int head, int key) {
  if (!a.drop.on || !h->train) return;
  Words w = philox(h->seed, a.drop.site, h->step, element(a, row, head, key) >> 3);
#pragma unroll
  for (int j = 0; j < 8; j++) p[j] *= mask_of(a.drop, half_of(w, j));
}

template <int HD> DEVICE void attention_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  Span s;
  if (!query_span(h, a, blockIdx.x, 32, s)) return;
  int hd = a.hd, head = blockIdx.y, kc = head / (a.heads / a.kv_heads) * hd, qc = head * hd;
  float *q = sm, *k = q + 32 * (hd + 1), *v = k + 32 * (hd + 1), *p = v + 32 * (hd + 1);
  int r = threadIdx.x / 4, c = threadIdx.x % 4, pos = s.pos + r;
  int lo = first_key(a, pos), hi = r < s.n ? last_key(a, pos, s.len) : lo, end = last_key(a, s.pos + s.n - 1, s.len);
  stage(q, a.q, s.row, a.ldq, qc, s.n, hd);
  float most = -INFINITY, sum = 0, o[HD / 4] = {};
  for (int k0 = first_key(a, s.pos) / 32 * 32; k0 < end; k0 += 32) {
    int nk = s.len - k0 < 32 ? s.len - k0 : 32;
    __syncthreads();
    stage(k, a.k, s.first + k0, a.ldk, kc, nk, hd);
    stage(v, a.v, s.first + k0, a.ldv, kc, nk, hd);
    __syncthreads();
    float x[8], top = -INFINITY, part = 0;
    dots(x, q + r * (hd + 1), k, c, hd);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int key = k0 + c * 8 + j;
      x[j] = key >= lo && key < hi ? x[j] * a.scale : -INFINITY;
      top = fmaxf(top, x[j]);
    }
    top = fmaxf(most, quad_max(top));
    float shrink = most == top ? 1.f : expf(most - top);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      x[j] = x[j] == -INFINITY ? 0.f : expf(x[j] - top);
      part += x[j];
    }
    sum = sum * shrink + quad_sum(part);
    most = top;
    keep_keys(h, a, x, s.row + r, head, k0 + c * 8);
#pragma unroll
    for (int j = 0; j < 8; j++) p[r * 33 + c * 8 + j] = x[j];
    __syncwarp();
#pragma unroll
    for (int j = 0; j < HD / 4; j++) o[j] *= shrink;
    gather<HD>(o, p + r * 33, v, c, hd);
  }
  if (r >= s.n) return;
#pragma unroll
  for (int j = 0; j < HD / 4; j++)
    if (c + 4 * j < hd) a.out[(i64)(s.row + r) * a.ldout + qc + c + 4 * j] = o[j] / sum;
  if (a.lse && c == 0) a.lse[(i64)(s.row + r) * a.ldlse + head] = most + logf(sum);
}
KERNEL attention_32(const Head *h, Attn a) { attention_of<32>(h, a); }
KERNEL attention_64(const Head *h, Attn a) { attention_of<64>(h, a); }
KERNEL attention_128(const Head *h, Attn a) { attention_of<128>(h, a); }
KERNEL attention_256(const Head *h, Attn a) { attention_of<256>(h, a); }

// attention_delta: delta[row, head] = dy · y of the head, a warp each.
KERNEL attention_delta(const Head *h, Attn a) {
  int e = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  int row = e / a.heads, head = e % a.heads;
  if (row >= count(h, a.pick == 0 ? -1 : -2)) return;
  float s = 0;
  for (int d = lane; d < a.hd; d += 32) s += a.dy[(i64)row * a.lddy + head * a.hd + d] * a.y[(i64)row * a.ldy + head * a.hd + d];
  s = warp_sum(s);
  if (lane == 0) a.delta[e] = s;
}

// attention_dq: dq = scale·Σ ds k with ds = p·(mask·dy·v - delta).
template <int HD> DEVICE void attention_dq_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  Span s;
  if (!query_span(h, a, blockIdx.x, 32, s)) return;
  int hd = a.hd, head = blockIdx.y, kc = head / (a.heads / a.kv_heads) * hd, qc = head * hd, size = 32 * (hd + 1);
  float *q = sm, *dy = q + size, *k = dy + size, *v = k + size, *w = v + size;
  int r = threadIdx.x / 4, c = threadIdx.x % 4, pos = s.pos + r;
  int lo = first_key(a, pos), hi = r < s.n ? last_key(a, pos, s.len) : lo, end = last_key(a, s.pos + s.n - 1, s.len);
  float lse = r < s.n ? a.lse[(i64)(s.row + r) * a.ldlse + head] : 0.f, delta = r < s.n ? a.delta[(i64)(s.row + r) * a.heads + head] : 0.f;
  if (hi - lo == 1) hi = lo;  // its probability is 1 whatever the score: exactly no gradient
  stage(q, a.q, s.row, a.ldq, qc, s.n, hd);
  stage(dy, a.dy, s.row, a.lddy, qc, s.n, hd);
  float o[HD / 4] = {};
  for (int k0 = first_key(a, s.pos) / 32 * 32; k0 < end; k0 += 32) {
    int nk = s.len - k0 < 32 ? s.len - k0 : 32;
    __syncthreads();
    stage(k, a.k, s.first + k0, a.ldk, kc, nk, hd);
    stage(v, a.v, s.first + k0, a.ldv, kc, nk, hd);
    __syncthreads();
    float x[8], g[8];
    dots(x, q + r * (hd + 1), k, c, hd);
    dots(g, dy + r * (hd + 1), v, c, hd);
    keep_keys(h, a, g, s.row + r, head, k0 + c * 8);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int key = k0 + c * 8 + j;
      w[r * 33 + c * 8 + j] = key >= lo && key < hi ? expf(x[j] * a.scale - lse) * (g[j] - delta) * a.scale : 0.f;
    }
    __syncwarp();
    gather<HD>(o, w + r * 33, k, c, hd);
  }
  if (r >= s.n) return;
#pragma unroll
  for (int j = 0; j < HD / 4; j++)
    if (c + 4 * j < hd) a.dq[(i64)(s.row + r) * a.lddq + qc + c + 4 * j] = o[j];
}
KERNEL attention_dq_32(const Head *h, Attn a) { attention_dq_of<32>(h, a); }
KERNEL attention_dq_64(const Head *h, Attn a) { attention_dq_of<64>(h, a); }
KERNEL attention_dq_128(const Head *h, Attn a) { attention_dq_of<128>(h, a); }
KERNEL attention_dq_256(const Head *h, Attn a) { attention_dq_of<256>(h, a); }

// attention_dkv: dk = scale·Σ dsᵀ q and dv = Σ (mask·p)ᵀ dy for 32 keys of one
// key/value head, over all its queries in order.
template <int HD> DEVICE void attention_dkv_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  if (blockIdx.x >= h->tiles) return;
  Tile t = h->tile[blockIdx.x];
  int hd = a.hd, kv = blockIdx.y, kc = kv * hd, group = a.heads / a.kv_heads, size = 32 * (hd + 1);
  float *k = sm, *v = k + size, *q = v + size, *dy = q + size, *w = dy + size, *u = w + 32 * 33;
  int r = threadIdx.x / 4, c = threadIdx.x % 4, key = t.off + r, nk = t.len - t.off < 32 ? t.len - t.off : 32;
  stage(k, a.k, t.first + t.off, a.ldk, kc, nk, hd);
  stage(v, a.v, t.first + t.off, a.ldv, kc, nk, hd);
  float ok[HD / 4] = {}, ov[HD / 4] = {};
  // Queries by position: all of them, or the one that is picked.
  int from = a.pick == 2 ? t.len - 1 : 0, to = a.pick == 1 ? 1 : t.len;
  if (a.causal && t.off > from) from = t.off;
  if (a.window > 0 && t.off + nk + a.window - 1 < to) to = t.off + nk + a.window - 1;
  for (int head = kv * group; head < (kv + 1) * group; head++) {
    for (int p0 = from; p0 < to; p0 += 32) {
      int nq = to - p0 < 32 ? to - p0 : 32, row0 = a.pick == 0 ? t.first + p0 : t.seq;
      __syncthreads();
      stage(q, a.q, row0, a.ldq, head * hd, nq, hd);
      stage(dy, a.dy, row0, a.lddy, head * hd, nq, hd);
      __syncthreads();
      float x[8], g[8];
      dots(x, k + r * (hd + 1), q, c, hd);
      dots(g, v + r * (hd + 1), dy, c, hd);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        int i = c * 8 + j, pos = p0 + i, lo = first_key(a, pos), hi = last_key(a, pos, t.len);
        float p = 0, ds = 0, m = 1;
        if (i < nq && r < nk && key >= lo && key < hi) {
          p = expf(x[j] * a.scale - a.lse[(i64)(row0 + i) * a.ldlse + head]);
          if (a.drop.on && h->train) m = mask_one(h, a.drop, element(a, row0 + i, head, key));
          if (hi - lo > 1) ds = p * (m * g[j] - a.delta[(i64)(row0 + i) * a.heads + head]) * a.scale;
        }
        w[r * 33 + i] = ds;
        u[r * 33 + i] = m * p;
      }
      __syncwarp();
      gather<HD>(ok, w + r * 33, q, c, hd);
      gather<HD>(ov, u + r * 33, dy, c, hd);
    }
  }
  if (r >= nk) return;
#pragma unroll
  for (int j = 0; j < HD / 4; j++) {
    if (c + 4 * j >= hd) continue;
    if (a.dk) a.dk[(i64)(t.first + key) * a.lddk + kc + c + 4 * j] = ok[j];
    if (a.dv) a.dv[(i64)(t.first + key) * a.lddv + kc + c + 4 * j] = ov[j];
  }
}
KERNEL attention_dkv_32(const Head *h, Attn a) { attention_dkv_of<32>(h, a); }
KERNEL attention_dkv_64(const Head *h, Attn a) { attention_dkv_of<64>(h, a); }
KERNEL attention_dkv_128(const Head *h, Attn a) { attention_dkv_of<128>(h, a); }
KERNEL attention_dkv_256(const Head *h, Attn a) { attention_dkv_of<256>(h, a); }
