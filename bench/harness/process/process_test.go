package process

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestChildrenCount(t *testing.T) {
	child := exec.Command("sh", "-c", "while :; do :; done")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	before, err := Of([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if now, _ := Of([]int{os.Getpid()}); now.CPUSeconds > before.CPUSeconds+0.05 && now.RSSBytes > 0 {
			return
		}
	}
	t.Error("a busy child costs nothing")
}

func TestTheNameMayHoldAnything(t *testing.T) {
	p, err := parse([]byte("7 (a) b (c) S 3 0 0 0 0 0 0 0 0 0 100 50 25 25 0 0 1 0 0 0 2 0"))
	if err != nil || p.parent != 3 || p.usage.CPUSeconds != 2 || p.usage.RSSBytes != 2*int64(os.Getpagesize()) {
		t.Errorf("%+v %v", p, err)
	}
}

func TestNoSuchProcess(t *testing.T) {
	if _, err := Of([]int{1 << 30}); err == nil {
		t.Error("no error")
	}
}
