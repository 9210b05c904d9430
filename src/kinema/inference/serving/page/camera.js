// A camera, or a clip that is played in its place, and its pictures.

const QUALITY = 0.85;

export const SECURE_WORDS =
  "Browsers give a page a camera over https, or on the machine itself (http://127.0.0.1), and nowhere else. " +
  "Start kinema serve with --certificate and --key. A clip can be played and recognised below all the same.";

const WORDS = {
  NotAllowedError:
    "The camera was refused. Allow it for this page in the browser's settings (beside the address), then press Start.",
  NotFoundError: "No camera was found on this device. A clip can be played and recognised below.",
  NotReadableError: "The camera cannot be read; another program may be using it.",
  OverconstrainedError: "That camera is not there any more. Choose another.",
};

export const hasCameras = () => window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);

// What a user can do where a camera could not be had.
export function explain(error) {
  return WORDS[error.name] ?? `The camera cannot be used (${error.name}: ${error.message}).`;
}

export class Source {
  // `onPicture(timeMs)` is called for every picture that is shown; `onEnd(words)` when no more will come.
  constructor(video, { onPicture, onEnd }) {
    this.video = video;
    this.onPicture = onPicture;
    this.onEnd = onEnd;
    this.canvas = document.createElement("canvas");
    this.lastMs = 0;
    this.run = 0; // pictures of a source that was left come too late
    video.addEventListener("ended", () => this.isOpen && this.onEnd(""));
    video.addEventListener("error", () =>
      this.isOpen && this.onEnd("The browser cannot play this file. Recognise may still read it."));
  }

  get isOpen() { return Boolean(this.video.srcObject || this.video.getAttribute("src")); }

  async openCamera(deviceId) {
    const size = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    const video = deviceId ? { deviceId: { exact: deviceId }, ...size } : size;
    const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    this.close();
    this.video.srcObject = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () =>
      this.video.srcObject === stream && this.onEnd("The camera was taken away, or switched off."));
    await this.play();
    return stream.getVideoTracks()[0].getSettings().deviceId ?? "";
  }

  async openFile(file) {
    this.close();
    this.video.src = this.address = URL.createObjectURL(file);
    await this.play();
  }

  async play() {
    await this.video.play();
    this.run += 1;
    this.next(this.run);
  }

  pause() {
    this.run += 1;
    this.video.pause();
  }

  close() {
    this.run += 1;
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
    if (this.video.hasAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load();
    }
  }

  next(run) {
    const shown = (now, facts) => {
      if (run !== this.run) return;
      this.next(run);
      // When the camera took it, where the browser says so; else when it was shown.
      const taken = facts?.captureTime;
      const timeMs = taken > now - 1000 && taken <= now ? taken : now;
      if (timeMs <= this.lastMs) return;
      this.lastMs = timeMs;
      this.onPicture(timeMs);
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(shown);
    else setTimeout(() => shown(performance.now()), 33);
  }

  // What is shown now as a JPEG, its short side at most so long.
  async jpeg(shortPx, mostBytes) {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width || !height) return null;
    const scale = Math.min(1, shortPx / Math.min(width, height));
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    const context = this.canvas.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    const blob = await new Promise((done) => this.canvas.toBlob(done, "image/jpeg", QUALITY));
    return blob && blob.size + 8 <= mostBytes ? blob.arrayBuffer() : null;
  }
}
