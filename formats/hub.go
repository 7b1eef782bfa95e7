package formats

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// HubCacheDir is where Hugging Face's libraries keep downloaded models:
// $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub or
// ~/.cache/huggingface/hub. getenv is os.Getenv in a program.
func HubCacheDir(getenv func(string) string, home string) string {
	if d := getenv("HF_HUB_CACHE"); d != "" {
		return d
	}
	if d := getenv("HF_HOME"); d != "" {
		return filepath.Join(d, "hub")
	}
	if d := getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "huggingface", "hub")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".cache", "huggingface", "hub")
}

// hubSnapshot finds the snapshot directory of a model name: the revision of
// refs/main, else the only or last snapshot.
func hubSnapshot(cache, name string) (string, bool) {
	if cache == "" || !looksLikeModelName(name) {
		return "", false
	}
	root := filepath.Join(cache, "models--"+strings.ReplaceAll(name, "/", "--"))
	if rev, err := os.ReadFile(filepath.Join(root, "refs", "main")); err == nil {
		d := filepath.Join(root, "snapshots", filepath.Base(strings.TrimSpace(string(rev))))
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			return d, true
		}
	}
	all, err := filepath.Glob(filepath.Join(escapeGlob(root), "snapshots", "*"))
	if err != nil || len(all) == 0 {
		return "", false
	}
	sort.Strings(all)
	return all[len(all)-1], true
}

// InHubCache says whether a path, its links resolved, lies in a cache in Hugging
// Face's layout: models--org--name with snapshots, which are links to blobs that
// several revisions and programs share.
func InHubCache(path string) bool {
	parts := strings.Split(filepath.ToSlash(path), "/")
	for i := 1; i < len(parts); i++ {
		if (parts[i] == "snapshots" || parts[i] == "blobs") && strings.HasPrefix(parts[i-1], "models--") {
			return true
		}
	}
	return false
}
