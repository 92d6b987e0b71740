package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/clrelay/clrelay/test/relayproc"
)

const deployDir = "../../deploy"

// tool gives the path of a program or skips the test.
func tool(t testing.TB, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: %s has it", name, from)
	}
	return path
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestUnitFile: systemd takes the unit, and it gives away little.
func TestUnitFile(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze", "the package systemd")
	text := readFile(t, deployDir+"/systemd/clrelay.service")
	if !strings.Contains(text, "ExecStart=/usr/bin/clrelay ") {
		t.Fatal("the unit does not start /usr/bin/clrelay")
	}
	unit := filepath.Join(t.TempDir(), "clrelay.service")
	writeFile(t, unit, strings.Replace(text, "/usr/bin/clrelay", "/bin/true", 1)) // it must be there
	if err := os.Chmod(unit, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("clrelay.service")) {
		t.Errorf("verify: %v\n%s", err, out)
	}
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
	if err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
}

// TestShellScripts: they are at least shell.
func TestShellScripts(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"debian/postinst", "debian/prerm", "debian/postrm", "compose/setup.sh"} {
		name := filepath.Join(deployDir, script)
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		if check, err := exec.LookPath("shellcheck"); err == nil {
			if out, err := exec.Command(check, name).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", script, err, out)
			}
		}
	}
}

// TestDebianPackage: what the package holds, and that installing and removing
// it makes the user, starts nothing and takes nothing away.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	binary(t)
	dpkg := tool(t, "dpkg-deb", "the package dpkg")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "bin/clrelay")); err != nil {
		t.Skip("there is no bin/clrelay: make build")
	}
	nfpm := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", append([]string{"tool", "-modfile=tools/nfpm.mod", "nfpm"}, args...)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "DEB_ARCH=amd64", "DEB_VERSION=0.0.0~test")
		return cmd.CombinedOutput()
	}
	if out, err := nfpm("--version"); err != nil {
		t.Skipf("nfpm cannot be had, as without a Go module proxy: %v\n%s", err, out)
	}
	pages := exec.Command("make", "-s", "man")
	pages.Dir = root
	if out, err := pages.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	deb := filepath.Join(publicDir(t), "clrelay.deb")
	if out, err := nfpm("package", "--config", "deploy/debian/nfpm.yaml", "--packager", "deb", "--target", deb); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(dpkg, "-c", deb).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`-rwxr-xr-x root/root +\d+ .* \./usr/bin/clrelay`, `drwxr-x--- root/root +0 .* \./etc/clrelay/tls/`,
		`-rw-r--r-- .* \./usr/lib/systemd/system/clrelay\.service`, `-rw-r--r-- .* \./usr/lib/sysusers\.d/clrelay\.conf`,
		`\./usr/share/doc/clrelay/operations\.md`, `\./usr/share/doc/clrelay/copyright`, `\./usr/share/doc/clrelay/examples/node\.yaml`,
		`\./usr/share/man/man8/clrelay-queue-list\.8`, `\./usr/share/bash-completion/completions/clrelay`,
	} {
		if !regexp.MustCompile(`(?m)^.*` + want + `$`).Match(out) {
			t.Errorf("the package lacks %s:\n%s", want, out)
		}
	}
	if bytes.Contains(out, []byte("etc/clrelay/node.yaml")) || bytes.Contains(out, []byte("etc/systemd")) {
		t.Errorf("the package brings a configuration, with which it would start:\n%s", out)
	}
	installPackage(t, deb)
}

// installPackage installs and removes it in a copy of this system that is laid
// over the real one and gone afterwards.
func installPackage(t *testing.T, deb string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("not root: the package was not installed")
		return
	}
	script := `set -e
top=` + filepath.Dir(deb) + `/over
# Disks of other tests must not stay mounted here when they are taken off there.
for m in $(awk '$1 ~ "^/dev/loop" { print $2 }' /proc/mounts); do umount -l $m; done
mkdir -p $top && mount -t tmpfs none $top
mkdir $top/up $top/work $top/root
mount -t overlay -o lowerdir=/,upperdir=$top/up,workdir=$top/work none $top/root || { echo NO OVERLAY; exit 0; }
mount -t proc none $top/root/proc
mount --bind /dev $top/root/dev
cp ` + deb + ` $top/root/clrelay.deb
chroot $top/root sh -e <<'END'
export DEBIAN_FRONTEND=noninteractive
dpkg -i /clrelay.deb
getent passwd clrelay
stat -c 'TLS %U:%G %a' /etc/clrelay/tls
/usr/bin/clrelay version
[ ! -e /etc/systemd/system/multi-user.target.wants/clrelay.service ] || echo ENABLED
mkdir -p /var/lib/clrelay && echo mail > /var/lib/clrelay/queue
echo node > /etc/clrelay/node.yaml
dpkg -i /clrelay.deb
dpkg -r clrelay
[ ! -e /usr/bin/clrelay ] || echo BINARY STAYS
dpkg -P clrelay
cat /var/lib/clrelay/queue /etc/clrelay/node.yaml
echo DONE
END
`
	out, err := exec.Command("unshare", "--mount", "--", "sh", "-c", script).CombinedOutput()
	text := string(out)
	if strings.Contains(text, "NO OVERLAY") {
		t.Log("no overlay file system here: the package was not installed")
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{"installed and not started", "clrelay:x:", "TLS root:clrelay 750", "may hold mail that is not delivered", "\nmail\nnode\nDONE\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
	if strings.Contains(text, "ENABLED") || strings.Contains(text, "BINARY STAYS") {
		t.Errorf("installed and removed:\n%s", text)
	}
}

// image is the last stage of the Containerfile, as far as it is used.
type image struct {
	user, entrypoint, cmd, health []string
}

// readImage reads it; an instruction that is not understood is an error, so
// that the test keeps up with the file.
func readImage(t *testing.T) image {
	t.Helper()
	text := strings.ReplaceAll(readFile(t, deployDir+"/container/Containerfile"), "\\\n", " ")
	_, last, ok := strings.Cut(text, "FROM scratch\n")
	if !ok {
		t.Fatal("the image is not made from scratch")
	}
	list := func(s string) (out []string) {
		if err := json.Unmarshal([]byte(s), &out); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return out
	}
	var im image
	for line := range strings.Lines(last) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "VOLUME", "EXPOSE", "STOPSIGNAL":
		case "COPY":
			if rest != "--from=build /rootfs/ /" {
				t.Errorf("COPY %s is not tested", rest)
			}
		case "USER":
			im.user = strings.Split(rest, ":")
		case "ENTRYPOINT":
			im.entrypoint = list(rest)
		case "CMD":
			im.cmd = list(rest)
		case "HEALTHCHECK":
			_, rest, _ = strings.Cut(rest, "CMD ")
			im.health = list(rest)
		default:
			t.Errorf("%s is not tested", word)
		}
	}
	return im
}

// TestContainerImage: the binary runs with nothing around it but what the
// image has: the tree is built by hand here, and a chroot stands for the
// container.
func TestContainerImage(t *testing.T) {
	t.Parallel()
	bin := binary(t)
	im := readImage(t)
	if os.Getuid() != 0 {
		t.Skip("not root: no chroot")
	}
	if !slices.Equal(im.user, []string{"65532", "65532"}) || !slices.Equal(im.entrypoint, []string{"/clrelay"}) {
		t.Fatalf("user %q, entry point %q", im.user, im.entrypoint)
	}
	root := publicDir(t)
	for _, dir := range []string{"etc/ssl/certs", "etc/clrelay/tls", "var/lib/clrelay"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(root, "var/lib/clrelay"), 65532, 65532); err != nil {
		t.Fatal(err)
	}
	text := readFile(t, bin)
	if err := os.WriteFile(filepath.Join(root, "clrelay"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	smtp, http := relayproc.FreeAddr(), relayproc.FreeAddr()
	for name, text := range map[string]string{
		"node.yaml":    fmt.Sprintf("node: mx1\nhostname: mx1.test\nsmtp: [{listen: %q}]\nhttp: %s\n", smtp, http),
		"cluster.yaml": "domains: [{name: home.test}]\nroutes: [{match: {}, action: {smarthost: [\"127.0.0.1:9\"]}}]\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc/clrelay", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	inside := func(args []string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Path, cmd.Err, cmd.Dir, cmd.Env = args[0], nil, "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd, &out
	}
	relay, log := inside(append(im.entrypoint, im.cmd...))
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- relay.Wait() }()
	eventually(t, 20*time.Second, "the health check passes", func() bool {
		check, _ := inside(im.health)
		return check.Run() == nil
	})
	submit(t, smtp, "a@client.test", "u@home.test", note("into the container"))
	if err := relay.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v\n%s", err, log)
		}
	case <-ctx.Done():
		_ = relay.Process.Kill() // it hangs, and that is the error
		t.Error("it does not end")
	}
}

// compose is what is looked at of compose.yaml.
type compose struct {
	Services map[string]struct {
		Image    string
		Profiles []string
		Build    struct{ Context, Dockerfile string }
		Volumes  []struct{ Type, Source, Target string }
	}
	Volumes map[string]any
}

// TestCompose: every file that compose.yaml names is there, HAProxy takes its
// own, and each node's configuration passes with certificates as setup.sh
// makes them.
func TestCompose(t *testing.T) {
	t.Parallel()
	bin := binary(t)
	dir := deployDir + "/compose"
	var c compose
	if err := yaml.Load([]byte(readFile(t, dir+"/compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	for name, s := range c.Services {
		if b := s.Build; b.Context != "" {
			if _, err := os.Stat(filepath.Join(dir, b.Context, b.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, v := range s.Volumes {
			_, known := c.Volumes[v.Source]
			if _, err := os.Stat(filepath.Join(dir, v.Source)); v.Type == "bind" && err != nil || v.Type == "volume" && !known {
				t.Errorf("%s: there is no %s", name, v.Source)
			}
		}
	}
	t.Run("haproxy", func(t *testing.T) {
		out, err := exec.Command(haproxyPath(t), "-c", "-f", dir+"/haproxy.cfg").CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		tail := func(name string) string { // but for names and addresses
			_, s, _ := strings.Cut(readFile(t, name), "\ndefaults\n")
			s = regexp.MustCompile(` (10\.0\.0\.1\d:25|mx\d:2525)\b`).ReplaceAllString(s, " ADDR")
			s = strings.Replace(s, " resolvers docker init-addr last,libc,none", "", 1)
			return regexp.MustCompile(`bind \S+( v4v6)?`).ReplaceAllString(s, "bind")
		}
		if tail(dir+"/haproxy.cfg") != tail(balancerConfig) {
			t.Error("deploy/compose/haproxy.cfg and deploy/haproxy/haproxy.cfg differ in more than addresses")
		}
	})
	work := t.TempDir()
	run := func(args ...string) (string, error) {
		out, err := exec.Command(bin, args...).CombinedOutput()
		return string(out), err
	}
	if out, err := run("cert", "create-ca", "--dir", work+"/tls/ca"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	writeFile(t, work+"/cluster.yaml", readFile(t, dir+"/cluster.yaml"))
	for _, node := range []string{"mx1", "mx2", "mx3"} {
		if _, ok := c.Services[node]; !ok {
			t.Errorf("there is no service %s", node)
		}
		if out, err := run("cert", "create-node", "--ca-dir", work+"/tls/ca", "--dir", work+"/tls/"+node, "--name", node, "--host", node); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		writeFile(t, work+"/node.yaml", readFile(t, dir+"/"+node+".yaml"))
		out, err := run("config", "validate", work+"/node.yaml")
		if strings.Contains(out, "cluster: not in this version yet") {
			t.Skip("this version runs no cluster yet")
		}
		if err != nil || strings.Contains(out, "warning") {
			t.Errorf("%s: %v\n%s", node, err, out)
		}
	}
}

// TestAlerts: the rules are about metrics that exist, and promtool takes them.
func TestAlerts(t *testing.T) {
	t.Parallel()
	name := deployDir + "/prometheus/clrelay.rules.yaml"
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Load([]byte(readFile(t, name)), &rules); err != nil {
		t.Fatal(err)
	}
	known := readFile(t, "../../docs/metrics.md")
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%+v is not complete", r)
			}
			for _, m := range regexp.MustCompile(`clrelay_\w+`).FindAllString(r.Expr, -1) {
				if !strings.Contains(known, strings.TrimSuffix(m, "_bucket")) {
					t.Errorf("%s: docs/metrics.md knows no %s", r.Alert, m)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}
	if path, err := exec.LookPath("promtool"); err == nil {
		if out, err := exec.Command(path, "check", "rules", name).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	} else if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
