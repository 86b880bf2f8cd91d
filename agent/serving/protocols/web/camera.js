// The camera, and sending from it again and again.

const WANTED = { video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false };

/** Why there is no camera, in words for people. */
function why(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The browser was not allowed to use the camera: allow it beside the address, and try again.";
    case "NotFoundError":
      return "This machine has no camera.";
    case "NotReadableError":
      return "The camera is used by another program.";
    default:
      return `The camera cannot be used: ${error.message}`;
  }
}

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /** Raises an Error that says why there is no picture. */
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the camera to pages over HTTPS, or from this very machine, only.");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia(WANTED);
      this.#video.srcObject = this.#stream;
      await this.#video.play();
    } catch (error) {
      this.stop();
      throw new Error(why(error), { cause: error });
    }
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) {
      track.stop();
    }
    this.#stream = null;
    this.#video.srcObject = null;
  }
}

/** Does a thing over and over, at most so often, and never twice at a time: a slow device is not sent a queue. */
export class Repeated {
  #running = 0;
  #work;

  /** `work` returns whether to go on. */
  constructor(work) {
    this.#work = work;
  }

  get isRunning() {
    return this.#running !== 0;
  }

  /** `perSecond` is asked before each, so that it may change meanwhile. */
  async start(perSecond) {
    const mine = performance.now() + 1;
    this.#running = mine;
    while (this.#running === mine) {
      const began = performance.now();
      if (!(await this.#work())) {
        break;
      }
      await pause(1000 / perSecond() - (performance.now() - began));
    }
    if (this.#running === mine) {
      this.#running = 0;
    }
  }

  stop() {
    this.#running = 0;
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}
