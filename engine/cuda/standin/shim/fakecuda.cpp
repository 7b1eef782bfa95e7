// A stand-in for libcuda.so.1: the same C interface over host memory. The
// kernels and their table are another translation unit, changed copies of
// kernels, which tests of tests run, a third one that may be missing.
// Nothing runs before something waits for it, so a host that reads, reuses or
// frees too early gets caught; memory has guards on both sides.
#include <deque>
#include <functional>
#include <map>
#include <vector>
#include "shim.h"
using shim::Kernel;
extern Kernel kernels[];
extern int kernel_count;
extern Kernel copies[] __attribute__((weak));
extern int copy_count __attribute__((weak));

namespace fake {
enum Setting { ORDER, MEMORY, DEVICES, DRIVER, MAJOR, MINOR, LAUNCHES, GRAPHS, GUARDS, LIVE, EAGER, COPY, SETTINGS };
long settings[SETTINGS] = {0, 1l << 30, 1, 12080, 9, 0, 0, 0, 0, 0, 0, 0};
// What the environment says, as "DRIVER=11030 MEMORY=1000000".
bool from_environment() {
  const char *text = getenv("LSRSURGEON_STANDIN");
  static const char *names[SETTINGS] = {"ORDER=", "MEMORY=", "DEVICES=", "DRIVER=", "MAJOR=", "MINOR="};
  names[COPY] = "COPY=";
  for (int i = 0; i < SETTINGS; i++) {
    const char *at = text && names[i] ? strstr(text, names[i]) : nullptr;
    if (at) settings[i] = atol(at + strlen(names[i]));
  }
  shim::s.order = (int)settings[ORDER];
  return true;
}
bool described = from_environment();
struct Stream {
  std::deque<std::function<void()>> queue;
  u64 done = 0, pushed = 0;
  std::vector<std::function<void()>> *capture = nullptr;
};
struct Event { Stream *s; u64 at; };
typedef std::vector<std::function<void()>> Graph;
std::vector<Stream *> streams;
void flush(Stream *s, u64 to) {
  while (s->done < to) {
    auto f = std::move(s->queue.front());
    s->queue.pop_front();
    s->done++;
    f();
  }
}
void flush_all() { for (Stream *s : streams) flush(s, s->pushed); }
void push(Stream *s, std::function<void()> f) {
  if (s->capture) { s->capture->push_back(std::move(f)); return; }
  s->queue.push_back(std::move(f));
  s->pushed++;
  if (settings[EAGER]) flush(s, s->pushed);
}
enum { GUARD = 4096 };
std::map<uintptr_t, size_t> heap;
bool inside(uintptr_t p, size_t n) {
  auto i = heap.upper_bound(p);
  if (i == heap.begin()) return false;
  --i;
  return p + n <= i->first + i->second;
}
void check(uintptr_t p, size_t n) {
  const unsigned char *b = (const unsigned char *)p;
  for (int i = 1; i <= GUARD; i++)
    if (b[-i] != 0xa5 || b[n + i - 1] != 0xa5) { settings[GUARDS]++; return; }
}
thread_local void *context;
int the_context;
}  // namespace fake
using namespace fake;

#define API extern "C" __attribute__((visibility("default"))) int
#define NEED_CONTEXT if (!context) return 201
API fake_set(int k, long v) { settings[k] = v; if (k == ORDER) shim::s.order = (int)v; return 0; }
extern "C" __attribute__((visibility("default"))) long fake_get(int k) {
  if (k == GUARDS) for (auto &b : heap) check(b.first, b.second);
  return settings[k];
}
// fake_push queues work of another stand-in.
extern "C" __attribute__((visibility("default"))) void fake_push(Stream *s, std::function<void()> *f) { push(s, *f); }
API cuInit(u32) { return settings[DEVICES] ? 0 : 100; }
API cuDriverGetVersion(int *v) { *v = (int)settings[DRIVER]; return 0; }
API cuDeviceGetCount(int *n) { *n = (int)settings[DEVICES]; return 0; }
API cuDeviceGet(int *d, int i) { *d = i; return i < settings[DEVICES] ? 0 : 101; }
API cuDeviceGetName(char *s, int n, int) { snprintf(s, n, "fibre shim"); return 0; }
API cuDeviceGetAttribute(int *v, int a, int) {
  *v = a == 75 ? (int)settings[MAJOR] : a == 76 ? (int)settings[MINOR] : a == 16 ? 4 : a == 97 ? 232448 : 0;
  return 0;
}
API cuDeviceTotalMem_v2(size_t *n, int) { *n = settings[MEMORY]; return 0; }
API cuDevicePrimaryCtxRetain(void **c, int) { *c = &the_context; return 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxSetCurrent(void *c) { context = c; return 0; }
API cuModuleLoadDataEx(void **m, const void *image, u32, void *, void *) {
  NEED_CONTEXT;
  if (strncmp((const char *)image, "//", 2)) return 218;
  *m = (void *)1;
  return 0;
}
API cuModuleUnload(void *) { NEED_CONTEXT; return 0; }
API cuModuleGetFunction(void **f, void *, const char *name) {
  NEED_CONTEXT;
  if (settings[COPY])
    for (int i = 0; i < copy_count; i++)
      if (copies[i].number == settings[COPY] && !strcmp(copies[i].name, name)) { *f = &copies[i]; return 0; }
  for (int i = 0; i < kernel_count; i++)
    if (!strcmp(kernels[i].name, name)) { *f = &kernels[i]; return 0; }
  return 500;
}
API cuFuncSetAttribute(Kernel *k, int attribute, int v) {
  NEED_CONTEXT;
  if (attribute != 8 || v > 232448) return 1;
  k->max_shared = v;
  return 0;
}
API cuMemGetInfo_v2(size_t *free, size_t *total) {
  NEED_CONTEXT;
  *free = settings[MEMORY] - settings[LIVE];
  *total = settings[MEMORY];
  return 0;
}
API cuMemAlloc_v2(uintptr_t *p, size_t n) {
  NEED_CONTEXT;
  if (n == 0) return 1;
  if (settings[LIVE] + (long)n > settings[MEMORY]) return 2;
  char *q = (char *)aligned_alloc(256, (n + 2 * GUARD + 255) / 256 * 256);
  memset(q, 0xa5, GUARD);
  memset(q + GUARD, 0xff, n);  // NaN
  memset(q + GUARD + n, 0xa5, GUARD);
  *p = (uintptr_t)q + GUARD;
  heap[*p] = n;
  settings[LIVE] += n;
  return 0;
}
API cuMemFree_v2(uintptr_t p) {
  NEED_CONTEXT;
  flush_all();
  auto i = heap.find(p);
  if (i == heap.end()) return 1;
  check(p, i->second);
  settings[LIVE] -= i->second;
  heap.erase(i);
  free((char *)p - GUARD);
  return 0;
}
API cuMemHostAlloc(void **p, size_t n, u32) { NEED_CONTEXT; *p = malloc(n); return 0; }
API cuMemFreeHost(void *p) { NEED_CONTEXT; flush_all(); free(p); return 0; }
API cuMemcpyHtoDAsync_v2(uintptr_t d, const void *s, size_t n, Stream *st) {
  NEED_CONTEXT;
  if (!inside(d, n)) return 1;
  push(st, [=] { memcpy((void *)d, s, n); });
  return 0;
}
API cuMemcpyDtoHAsync_v2(void *d, uintptr_t s, size_t n, Stream *st) {
  NEED_CONTEXT;
  if (!inside(s, n)) return 1;
  push(st, [=] { memcpy(d, (void *)s, n); });
  return 0;
}
API cuMemcpyDtoDAsync_v2(uintptr_t d, uintptr_t s, size_t n, Stream *st) {
  NEED_CONTEXT;
  if (!inside(s, n) || !inside(d, n)) return 1;
  push(st, [=] { memcpy((void *)d, (void *)s, n); });
  return 0;
}
API cuMemsetD8Async(uintptr_t d, unsigned char v, size_t n, Stream *st) {
  NEED_CONTEXT;
  if (!inside(d, n)) return 1;
  push(st, [=] { memset((void *)d, v, n); });
  return 0;
}
API cuStreamCreate(Stream **s, u32) { NEED_CONTEXT; streams.push_back(*s = new Stream); return 0; }
API cuStreamDestroy_v2(Stream *s) {
  NEED_CONTEXT;
  flush(s, s->pushed);
  for (size_t i = 0; i < streams.size(); i++)
    if (streams[i] == s) streams.erase(streams.begin() + i);
  delete s;
  return 0;
}
API cuStreamSynchronize(Stream *s) { NEED_CONTEXT; if (s->capture) return 900; flush(s, s->pushed); return 0; }
API cuStreamWaitEvent(Stream *s, Event *e, u32) {
  NEED_CONTEXT;
  Event at = *e;
  push(s, [=] { if (at.s) flush(at.s, at.at); });
  return 0;
}
API cuEventCreate(Event **e, u32) { NEED_CONTEXT; *e = new Event{nullptr, 0}; return 0; }
API cuEventDestroy_v2(Event *e) { NEED_CONTEXT; delete e; return 0; }
API cuEventRecord(Event *e, Stream *s) { NEED_CONTEXT; *e = Event{s, s->pushed}; return 0; }
API cuEventSynchronize(Event *e) { NEED_CONTEXT; if (e->s) flush(e->s, e->at); return 0; }
API cuEventElapsedTime(float *ms, Event *, Event *) { NEED_CONTEXT; *ms = 1; return 0; }
API cuStreamBeginCapture_v2(Stream *s, int) { NEED_CONTEXT; if (s->capture) return 900; s->capture = new Graph; return 0; }
API cuStreamEndCapture(Stream *s, Graph **g) { NEED_CONTEXT; if (!s->capture) return 901; *g = s->capture; s->capture = nullptr; return 0; }
API cuGraphInstantiateWithFlags(Graph **e, Graph *g, u64) { NEED_CONTEXT; *e = new Graph(*g); return 0; }
API cuGraphLaunch(Graph *g, Stream *s) {
  NEED_CONTEXT;
  settings[GRAPHS]++;
  Graph copy = *g;
  push(s, [copy] { for (auto &f : copy) f(); });
  return 0;
}
API cuGraphExecDestroy(Graph *g) { NEED_CONTEXT; delete g; return 0; }
API cuGraphDestroy(Graph *g) { NEED_CONTEXT; delete g; return 0; }
API cuLaunchKernel(Kernel *k, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, Stream *s, void **p, void **) {
  NEED_CONTEXT;
  if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx < 1 || bx > 1024 || by != 1 || bz != 1) return 1;
  if (shared > (k->max_shared ? k->max_shared : 49152)) return 1;
  settings[LAUNCHES]++;
  shim::Args args;
  k->bind(args, p);
  push(s, [=]() mutable { shim::launch(args, {gx, gy, gz}, bx, shared); });
  return 0;
}
API cuGetErrorName(int e, const char **s) {
  static const std::map<int, const char *> names = {{1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
      {101, "CUDA_ERROR_INVALID_DEVICE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"}, {218, "CUDA_ERROR_INVALID_PTX"}, {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
      {500, "CUDA_ERROR_NOT_FOUND"}, {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
  auto i = names.find(e);
  if (i == names.end()) return 1;
  *s = i->second;
  return 0;
}
