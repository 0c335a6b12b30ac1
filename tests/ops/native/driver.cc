// Runs the cases of a file through a kernel library, on every instruction set it has: the
// library as it is shipped, on a processor that is not this one (test_emulated.py).
//
//   driver LIBRARY CASES OUTPUTS
//
// CASES holds, in the byte order of the machine: the number of cases, then for each the number of
// its entry in kEntries, nine sizes for it, the threads, the bytes of x, codes, scale and y, and
// the first three. OUTPUTS receives the y of each usable instruction set and case; stdout says one
// line for each instruction set: its name, whether it is usable, and the worst answer.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

using Bytes = std::vector<unsigned char>;

static void* Need(void* found) {
  if (found == nullptr) std::fprintf(stderr, "%s\n", dlerror()), std::exit(2);
  return found;
}

static void Read(std::FILE* file, void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, file) != bytes) std::fprintf(stderr, "short file\n"), std::exit(2);
}

using Entry = int (*)(int64_t, int64_t, const int64_t*, const void*, const void*, const void*,
                      void*);
static const char* const kEntries[] = {"bitnet_run", "bitnet_rows_run", "bitnet_dense_run"};

struct Case {
  int64_t entry, sizes[9], threads, bytes[4];
  Bytes data[4];
};

int main(int, char** argv) {
  void* library = Need(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL));
  auto count = reinterpret_cast<int64_t (*)()>(Need(dlsym(library, "bitnet_isa_count")));
  auto name = reinterpret_cast<const char* (*)(int64_t)>(Need(dlsym(library, "bitnet_isa_name")));
  auto usable = reinterpret_cast<int (*)(int64_t)>(Need(dlsym(library, "bitnet_isa_usable")));
  std::vector<Entry> entries;
  for (const char* entry : kEntries)
    entries.push_back(reinterpret_cast<Entry>(Need(dlsym(library, entry))));
  std::FILE* in = std::fopen(argv[2], "rb");
  std::FILE* out = std::fopen(argv[3], "wb");
  if (in == nullptr || out == nullptr) return 2;
  int64_t cases_count;
  Read(in, &cases_count, sizeof(cases_count));
  std::vector<Case> cases(cases_count);
  for (Case& c : cases) {
    Read(in, &c.entry, sizeof(c.entry));
    Read(in, c.sizes, sizeof(c.sizes));
    Read(in, &c.threads, sizeof(c.threads));
    Read(in, c.bytes, sizeof(c.bytes));
    // Vectors of their own, so that a read beyond an end meets foreign memory.
    for (int i = 0; i < 4; ++i) c.data[i].resize(c.bytes[i]);
    for (int i = 0; i < 3; ++i) Read(in, c.data[i].data(), c.bytes[i]);
  }
  for (int64_t isa = 0; isa < count(); ++isa) {
    int worst = 0;
    for (Case& c : cases) {
      const int answer =
          entries[c.entry](isa, c.threads, c.sizes, c.data[0].data(), c.data[1].data(),
                           c.data[2].data(), c.data[3].data());
      worst = answer > worst ? answer : worst;
      if (usable(isa)) std::fwrite(c.data[3].data(), 1, c.data[3].size(), out);
    }
    std::printf("%s %s %d\n", name(isa), usable(isa) ? "usable" : "missing", worst);
  }
  return std::fclose(out);
}
